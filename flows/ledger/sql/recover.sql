-- Who lives: the holders of the locks of runs and batches.

-- name: living_runs
-- After a start of PostgreSQL everybody has a moment to take his locks again.
WITH held AS (
    SELECT classid::bigint << 32 | objid::bigint AS key FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT flow_run_id FROM unnest(:flow_run_ids::text[], :lock_names::text[], :lock_seeds::int[])
    AS asked (flow_run_id, lock_name, lock_seed)
WHERE clock_timestamp() - pg_postmaster_start_time() < :patience * interval '1 second'
   OR EXISTS (SELECT FROM held WHERE key = hashtextextended(lock_name, lock_seed));
