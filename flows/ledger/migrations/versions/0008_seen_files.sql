-- Files of which the kernel does not say whether they are open for writing, and when one was first seen so:
-- a file that is still the same after the quiet time is complete.
CREATE TABLE seen_files (
    sighting text PRIMARY KEY,
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
