-- Who lives: the holders of the locks of runs and batches; and which stages nobody works in.

-- name: living_runs
-- After a start of PostgreSQL everybody has a moment to take his locks again.
WITH held AS (
    SELECT key FROM advisory_locks WHERE granted AND space IS NULL
)
SELECT flow_run_id FROM unnest(:flow_run_ids::text[], :batch_ids::text[], :run_ids::uuid[])
    AS asked (flow_run_id, batch_id, run_id)
WHERE clock_timestamp() - pg_postmaster_start_time() BETWEEN interval '0' AND :patience * interval '1 second'
   OR EXISTS (SELECT FROM held WHERE key = coalesce(batch_lock_key(asked.batch_id), run_lock_key(asked.run_id)));

-- name: stages_at_rest
-- No run of theirs holds a slot, asks for one, or has ended a moment ago.
SELECT stage FROM stages s
WHERE NOT EXISTS (SELECT FROM stage_runs r WHERE r.stage = s.stage AND r.fenced_at IS NOT NULL AND r.finished_at IS NULL)
  AND NOT EXISTS (SELECT FROM stage_runs r WHERE r.stage = s.stage
                  AND r.finished_at > statement_timestamp() - :seconds * interval '1 second');
