-- The Prefect server of this ledger, as `tdp apply` last recorded it: at most one row.
CREATE TABLE prefect_server (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    identity    uuid NOT NULL, -- the same value is in the variable tdp_server_id of that server
    home        text NOT NULL,
    host        text NOT NULL,
    url         text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
