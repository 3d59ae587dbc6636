-- Live runs: those whose lock is held. Idle stages: those in which no run is at work.

-- name: live_runs
-- For ``grace`` seconds after a start of PostgreSQL all runs count as live: they reacquire their locks then.
WITH held AS (
    SELECT key FROM advisory_locks WHERE granted AND space IS NULL
)
SELECT flow_run_id FROM unnest(:flow_run_ids::text[], :batch_ids::text[], :run_ids::uuid[])
    AS candidate (flow_run_id, batch_id, run_id)
WHERE clock_timestamp() - pg_postmaster_start_time() BETWEEN interval '0' AND :grace * interval '1 second'
   OR EXISTS (SELECT FROM held WHERE key = coalesce(batch_lock_key(candidate.batch_id), run_lock_key(candidate.run_id)));

-- name: stages_at_rest
-- Stages of which no run holds a slot, waits for one, or ended within the last ``seconds``.
SELECT stage FROM stages s
WHERE NOT EXISTS (SELECT FROM stage_runs r WHERE r.stage = s.stage AND r.fenced_at IS NOT NULL AND r.finished_at IS NULL)
  AND NOT EXISTS (SELECT FROM stage_runs r WHERE r.stage = s.stage
                  AND r.finished_at > statement_timestamp() - :seconds * interval '1 second');
