-- The gate. All of it runs on the fence's own session, so what it writes is true as long as it may write.

-- name: open_stage_run^
-- What an earlier run of this batch left waiting is dead: the batch has one owner at a time.
WITH dead AS (
    UPDATE stage_runs SET finished_at = clock_timestamp(), outcome = 'LOST', error = 'its run died while it waited'
    WHERE batch_id = :batch_id AND fenced_at IS NULL AND finished_at IS NULL
)
INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, flow_run_id, task_run_id, files, bytes_in)
SELECT :batch_id, :stage,
       (SELECT count(*) + 1 FROM stage_runs WHERE batch_id = :batch_id AND stage = :stage),
       :host, :pid, :flow_run_id, :task_run_id, count(*), coalesce(sum(size_bytes), 0)
FROM batch_files JOIN source_files USING (source_id) WHERE batch_id = :batch_id
RETURNING stage_run_id, attempt, (SELECT exclusive FROM stages WHERE stage = :stage) AS exclusive,
          set_config('application_name', concat_ws(' ', 'tdp', stage, batch_id), false);

-- name: stage_position^
SELECT position, exclusive FROM stages WHERE stage = :stage;

-- name: take_fence
SELECT pg_advisory_lock(:space, :key);

-- name: take_free_fence
-- The first of several slots whose fence is open, if one is.
SELECT slot FROM generate_series(0, :slots - 1) AS slot WHERE pg_try_advisory_lock(:space, :key + slot) LIMIT 1;

-- name: open_fence
SELECT pg_advisory_unlock(:space, :key);

-- name: open_fence_to_lease^
-- Whoever comes next finds the lease already. Where none is left, it is given back to the server before.
SELECT CASE WHEN EXISTS (SELECT FROM parked_leases WHERE lease_id = :lease_id)
            THEN pg_advisory_unlock(:space, :key) ELSE false END AS opened;

-- name: in_the_way
-- Who holds the slots that this run waits for, the oldest first.
SELECT batch_id, host, pid, fenced_at AT TIME ZONE 'UTC' AS fenced_at FROM stage_runs
WHERE stage = :stage AND fenced_at IS NOT NULL AND finished_at IS NULL AND stage_run_id <> :stage_run_id
ORDER BY fenced_at;

-- name: enter_gate^
-- A run is behind its fence. It starts at once if a lease is left for it that is young: an operator who pauses
-- or changes the limit is obeyed within seconds. But first dead runs are cleared away. Whoever holds a fence
-- knows: another unfinished run behind it has no living holder. Nor has one behind the fence of another slot
-- that nobody holds; who comes next need not come there. MATERIALIZED: a LIMIT that locks, within a loop of the
-- planner's choice, would be asked for each row anew.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now, clock_timestamp() - make_interval(secs => :within) AS old
), dead AS MATERIALIZED (
    SELECT stage_run_id, batch_id, host, pid, lease_id FROM stage_runs
    WHERE stage = :stage AND fenced_at IS NOT NULL AND finished_at IS NULL AND stage_run_id <> :stage_run_id
      AND (slot = :slot OR NOT EXISTS (
        SELECT FROM advisory_locks WHERE granted AND space = :space AND key = :key - :slot + slot))
), aged AS (
    DELETE FROM parked_leases USING moment WHERE stage = :stage AND taken_at <= old RETURNING lease_id
), youngest AS MATERIALIZED (
    SELECT lease_id FROM parked_leases, moment
    WHERE stage = :stage AND taken_at > old AND NOT EXISTS (SELECT FROM dead)
    ORDER BY taken_at DESC LIMIT 1 FOR UPDATE OF parked_leases SKIP LOCKED
), young AS (
    DELETE FROM parked_leases USING youngest WHERE parked_leases.lease_id = youngest.lease_id
    RETURNING parked_leases.lease_id, taken_at
), entered AS (
    UPDATE stage_runs SET fenced_at = now, slot = :slot, lease_id = young.lease_id,
        started_at = CASE WHEN young.lease_id IS NOT NULL THEN now END
    FROM moment LEFT JOIN young ON true WHERE stage_run_id = :stage_run_id RETURNING batch_id, started_at
), started AS (
    UPDATE batch_processing b
    SET status = CASE :stage WHEN 'extract' THEN 'EXTRACTING' WHEN 'convert' THEN 'CONVERTING' ELSE 'STORING' END,
        started_at = coalesce(b.started_at, e.started_at), completed_at = NULL, error_message = NULL,
        flow_run_id = coalesce(:flow_run_id, b.flow_run_id)
    FROM entered e WHERE b.batch_id = e.batch_id AND e.started_at IS NOT NULL
)
SELECT lease_id, extract(epoch FROM now - taken_at)::float8 AS age, array(SELECT lease_id FROM aged) AS aged,
       (SELECT coalesce(jsonb_agg(dead), '[]') FROM dead) AS dead
FROM moment LEFT JOIN young ON true;

-- name: close_dead_stage_run!
UPDATE stage_runs SET finished_at = clock_timestamp(), outcome = 'LOST', error = :error
WHERE stage_run_id = :stage_run_id AND finished_at IS NULL;

-- name: running_behind_gate^
SELECT (SELECT count(*) FROM stage_runs WHERE stage = :stage AND lease_id IS NOT NULL AND finished_at IS NULL)
     + (SELECT count(*) FROM parked_leases WHERE stage = :stage) AS running;

-- name: start_stage_run!
-- With a lease of its own.
WITH started AS (
    UPDATE stage_runs SET started_at = clock_timestamp(), lease_id = :lease_id
    WHERE stage_run_id = :stage_run_id RETURNING batch_id, started_at
)
UPDATE batch_processing b
SET status = CASE :stage WHEN 'extract' THEN 'EXTRACTING' WHEN 'convert' THEN 'CONVERTING' ELSE 'STORING' END,
    started_at = coalesce(b.started_at, s.started_at), completed_at = NULL, error_message = NULL,
    flow_run_id = coalesce(:flow_run_id, b.flow_run_id)
FROM started s WHERE b.batch_id = s.batch_id;

-- name: finish_stage_run
-- A run that its successor has closed as LOST stays closed. Its lease, if it is young, is left for whoever comes
-- next: for the run that waits for this very fence, if there is one, or on spec, where somebody looks after it.
WITH finished AS (
    UPDATE stage_runs SET finished_at = clock_timestamp(), outcome = :outcome, error = :error, counts = :counts
    WHERE stage_run_id = :stage_run_id AND finished_at IS NULL
    RETURNING batch_id, stage, slot, lease_id, extract(epoch FROM finished_at - started_at)::float8 AS duration
), batch AS (
    UPDATE batch_processing b SET
        extract_duration_sec = CASE f.stage WHEN 'extract' THEN f.duration ELSE extract_duration_sec END,
        convert_duration_sec = CASE f.stage WHEN 'convert' THEN f.duration ELSE convert_duration_sec END,
        store_duration_sec   = CASE f.stage WHEN 'store'   THEN f.duration ELSE store_duration_sec END
    FROM finished f WHERE b.batch_id = f.batch_id AND :outcome = 'COMPLETED'
), parked AS (
    INSERT INTO parked_leases (stage, slot, lease_id, taken_at)
    SELECT stage, slot, lease_id, clock_timestamp() - make_interval(secs => :age) FROM finished
    WHERE :age::float8 < :within AND (:on_spec OR EXISTS (
        SELECT FROM advisory_locks WHERE NOT granted AND space = :space AND key = :key))
    ON CONFLICT DO NOTHING RETURNING lease_id
)
SELECT duration, EXISTS (SELECT FROM parked) AS parked FROM finished;

-- name: take_parked
-- Of these leases, those that nobody has come for.
DELETE FROM parked_leases WHERE lease_id = ANY(:lease_ids) RETURNING lease_id;

-- name: alive^
SELECT 1 AS alive;
