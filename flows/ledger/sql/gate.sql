-- The gate. The holder of a fence writes through the session that holds the fence, so what it writes is still
-- true when it is committed. No time is before the one it follows, even if the server's clock is set back.

-- name: open_stage_run^
-- Rows of this batch that an earlier run left waiting are dead: the batch has one owner at a time.
WITH dead AS (
    UPDATE stage_runs SET finished_at = greatest(clock_timestamp(), queued_at), outcome = 'LOST',
        error = 'its run died while it waited'
    WHERE batch_id = :batch_id AND fenced_at IS NULL AND finished_at IS NULL
), opened AS (
    SELECT nextval(pg_get_serial_sequence('stage_runs', 'stage_run_id')) AS id
)
INSERT INTO stage_runs (stage_run_id, batch_id, stage, attempt, host, place, pid, work_lock, flow_run_id,
    task_run_id, files, bytes_in)
OVERRIDING SYSTEM VALUE
SELECT id, :batch_id, :stage,
       (SELECT count(*) + 1 FROM stage_runs WHERE batch_id = :batch_id AND stage = :stage),
       :host, :place, :pid, concat(:locks::text, '/', id, '.lock'), :flow_run_id, :task_run_id,
       (SELECT count(*) FROM batch_files WHERE batch_id = :batch_id),
       (SELECT coalesce(sum(size_bytes), 0) FROM batch_files JOIN source_files USING (source_id)
        WHERE batch_id = :batch_id)
FROM opened
RETURNING stage_run_id, attempt, work_lock;

-- name: stage_position^
SELECT position, exclusive FROM stages WHERE stage = :stage;

-- name: acquire_lock
SELECT pg_advisory_lock(:space, :key);

-- name: acquire_free_lock
-- The first of several slots whose fence is free, if one is.
SELECT slot FROM generate_series(0, :slots - 1) AS slot WHERE pg_try_advisory_lock(:space, :key + slot) LIMIT 1;

-- name: release_lock
SELECT pg_advisory_unlock(:space, :key);

-- name: holders
-- The stage runs that hold the slots which this one waits for, the oldest first.
SELECT batch_id, host, pid, fenced_at AT TIME ZONE 'UTC' AS fenced_at FROM stage_runs
WHERE stage = :stage AND fenced_at IS NOT NULL AND finished_at IS NULL AND stage_run_id <> :stage_run_id
ORDER BY fenced_at;

-- name: enter_gate^
-- The run holds its fence. It starts at once if the place has a lease already and no row of a dead run has to
-- be closed first. If another run has claimed its batch and closed its row while it waited, nothing is
-- changed and no row is returned. Three kinds of unfinished runs are dead: those behind this fence, because
-- only its holder can be alive; those behind the fence of another slot that no session holds, which the next
-- waiter may never acquire; and those of the same batch, which has one owner at a time.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), dead AS MATERIALIZED (
    SELECT stage_run_id, batch_id, stage, host, place, pid, work_lock, lease_id FROM stage_runs r
    WHERE fenced_at IS NOT NULL AND finished_at IS NULL AND stage_run_id <> :stage_run_id
      AND (batch_id = (SELECT batch_id FROM stage_runs WHERE stage_run_id = :stage_run_id)
           OR stage = :stage AND (slot = :slot OR NOT EXISTS (
               SELECT FROM advisory_locks WHERE granted AND space = :space AND key = :base + slot)))
), entered AS (
    UPDATE stage_runs SET fenced_at = greatest(now, queued_at), slot = :slot, lease_id = :lease_id::uuid,
        started_at = CASE WHEN :lease_id::uuid IS NOT NULL AND NOT EXISTS (SELECT FROM dead)
                     THEN greatest(now, queued_at, stage_free_since(stage)) END
    FROM moment WHERE stage_run_id = :stage_run_id AND finished_at IS NULL RETURNING batch_id, started_at
), batch AS (
    UPDATE batch_processing b SET status = stage_status(:stage),
        started_at = coalesce(b.started_at, e.started_at), completed_at = NULL, error_message = NULL,
        flow_run_id = coalesce(:flow_run_id, b.flow_run_id)
    FROM entered e WHERE b.batch_id = e.batch_id AND e.started_at IS NOT NULL
)
SELECT started_at IS NOT NULL AS is_started, (SELECT coalesce(jsonb_agg(dead), '[]') FROM dead) AS dead,
       set_config('application_name', :application, false)
FROM entered;

-- name: start_stage_run^
WITH started AS (
    UPDATE stage_runs SET started_at = greatest(clock_timestamp(), fenced_at, stage_free_since(stage)),
        lease_id = :lease_id
    WHERE stage_run_id = :stage_run_id AND finished_at IS NULL RETURNING batch_id, started_at
), batch AS (
    UPDATE batch_processing b SET status = stage_status(:stage),
        started_at = coalesce(b.started_at, s.started_at), completed_at = NULL, error_message = NULL,
        flow_run_id = coalesce(:flow_run_id, b.flow_run_id)
    FROM started s WHERE b.batch_id = s.batch_id
)
SELECT started_at FROM started;

-- name: finish_stage_run^
-- A run that its successor has closed as LOST stays closed. Another process waits for the stage if it waits
-- for its fence, for the queue of a stage with several slots, or holds the lock that allows one yielding run
-- to queue.
WITH finished AS (
    UPDATE stage_runs SET finished_at = greatest(clock_timestamp(), started_at), outcome = 'COMPLETED',
        counts = :counts
    WHERE stage_run_id = :stage_run_id AND finished_at IS NULL
    RETURNING batch_id, stage, extract(epoch FROM finished_at - started_at)::float8 AS duration
), batch AS (
    UPDATE batch_processing b SET
        extract_duration_sec = CASE f.stage WHEN 'extract' THEN f.duration ELSE extract_duration_sec END,
        convert_duration_sec = CASE f.stage WHEN 'convert' THEN f.duration ELSE convert_duration_sec END,
        store_duration_sec   = CASE f.stage WHEN 'store'   THEN f.duration ELSE store_duration_sec END
    FROM finished f WHERE b.batch_id = f.batch_id
), others AS MATERIALIZED (
    SELECT pid, space = :yielding AS yields FROM advisory_locks
    WHERE pid <> ALL (:own_pids::int[])
      AND (space = :fence AND key = :key AND NOT granted OR space IN (:queue, :yielding) AND key = :base)
)
SELECT duration, EXISTS (SELECT FROM others WHERE yields) AS yielding_waits,
       EXISTS (SELECT FROM others o WHERE NOT yields AND NOT EXISTS (
           SELECT FROM others y WHERE y.pid = o.pid AND y.yields)) AS others_wait
FROM finished;

-- name: fail_stage_run
UPDATE stage_runs SET finished_at = greatest(clock_timestamp(), started_at, fenced_at, queued_at),
    outcome = :outcome, error = :error
WHERE stage_run_id = :stage_run_id AND finished_at IS NULL RETURNING stage_run_id;

-- name: extend_lost_stage_run!
-- The holder records the time at which its work had in fact ended: if a successor was at work by then,
-- stage_overlaps shows it.
UPDATE stage_runs SET finished_at = greatest(clock_timestamp() - make_interval(secs => :ago), finished_at)
WHERE stage_run_id = :stage_run_id AND outcome = 'LOST';

-- name: close_dead_stage_run!
UPDATE stage_runs SET finished_at = greatest(clock_timestamp(), started_at, fenced_at), outcome = 'LOST',
    error = :error
WHERE stage_run_id = :stage_run_id AND finished_at IS NULL;

-- name: leases_behind_gate^
-- How many leases are in use, with those that processes may keep for a moment after a run; and those that a
-- process which died in that moment may have left: of each slot the last one, if it may not have expired yet.
WITH leases AS (
    SELECT lease_id, slot, max(coalesce(finished_at, 'infinity')) AS used_until FROM stage_runs
    WHERE stage = :stage AND lease_id IS NOT NULL
      AND (finished_at IS NULL OR finished_at > clock_timestamp() - interval '90 seconds')
    GROUP BY lease_id, slot
), last AS (
    SELECT DISTINCT ON (slot) lease_id, used_until FROM leases ORDER BY slot, used_until DESC
), moment AS (
    SELECT clock_timestamp() - interval '1 second' AS ago
)
SELECT (SELECT count(DISTINCT lease_id) FROM leases, moment WHERE used_until > ago) AS running,
       (SELECT coalesce(jsonb_agg(lease_id), '[]') FROM last, moment WHERE used_until <= ago) AS "left";

-- name: alive^
SELECT 1 AS alive;
