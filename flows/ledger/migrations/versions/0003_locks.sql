-- Keys of the locks that prove a batch or a flow run alive: the process that works on it holds the lock on its id
-- in a session of its own.
CREATE FUNCTION batch_lock_key(batch_id text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN hashtextextended(batch_id, 0);
CREATE FUNCTION run_lock_key(flow_run_id uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN hashtextextended(flow_run_id::text, 1);

-- Advisory locks of this database, held (granted) or awaited. Locks with two 32-bit keys have a space; locks with
-- one 64-bit key have none.
CREATE VIEW advisory_locks AS
SELECT pid, granted, CASE objsubid WHEN 2 THEN classid::bigint END AS space,
       CASE objsubid WHEN 2 THEN objid::bigint ELSE classid::bigint << 32 | objid::bigint END AS key
FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

CREATE OR REPLACE VIEW living_backfills AS
SELECT r.flow_run_id, r.batch_id, r.listed_at FROM run_batches r
JOIN advisory_locks l ON l.granted AND l.space IS NULL AND l.key = run_lock_key(r.flow_run_id)
WHERE r.from_stage IS NOT NULL;
