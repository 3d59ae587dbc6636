-- Files whose bytes are being stored. A row is committed before the bytes move, and is removed by the transaction
-- that records the source file. A row that is left after a crash names bytes that may be in sources/ already.
CREATE TABLE arrivals (
    sha256       text PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    name         text NOT NULL,
    size_bytes   bigint NOT NULL,
    stored_path  text NOT NULL,
    origin       text NOT NULL,
    sighting     text NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A hash of path, inode, size and times of the file: a file that could not be removed is recognised by it.
ALTER TABLE receipts ADD COLUMN sighting text;
CREATE INDEX receipts_sighting ON receipts (sighting) WHERE sighting IS NOT NULL;

-- When an operator last had a quarantined file returned; its retention time starts then.
ALTER TABLE source_files ADD COLUMN returned_at timestamptz;
CREATE INDEX batch_files_quarantined ON batch_files (batch_id) WHERE status = 'QUARANTINED';

-- The entries that the last run left in its folder, with the reason. is_error: the entry could not be
-- received.
CREATE TABLE left_files (
    folder     text NOT NULL,
    name       text NOT NULL,
    sighting   text NOT NULL,
    reason     text NOT NULL,
    is_error   boolean NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: when the run that holds the intake lock last acquired it or received a file.
CREATE TABLE intake (moved_at timestamptz NOT NULL);
INSERT INTO intake VALUES (clock_timestamp());
