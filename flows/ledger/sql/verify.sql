-- Each statement returns the rows that break a rule; no rows if the rule is kept.

-- name: overlapping_runs(since)
SELECT * FROM stage_overlaps
WHERE :since::timestamptz IS NULL OR started_at >= :since OR earlier_finished_at >= :since
ORDER BY started_at;

-- name: disordered_runs(since)
-- The times of a run must be in this order: queued, fence acquired, started, finished.
SELECT stage_run_id, batch_id, stage, queued_at, fenced_at, started_at, finished_at FROM stage_runs
WHERE (:since::timestamptz IS NULL OR queued_at >= :since)
  AND (fenced_at < queued_at OR started_at < fenced_at OR finished_at < coalesce(started_at, fenced_at, queued_at))
ORDER BY queued_at;

-- name: unowned_runs(fence_space)
-- Unfinished runs without an owner: their fence or, before they acquire it, their batch's lock is not held.
WITH held AS (
    SELECT space, key FROM advisory_locks WHERE granted
)
SELECT r.stage_run_id, r.batch_id, r.stage, r.host, r.pid, r.queued_at, r.started_at,
       CASE WHEN r.fenced_at IS NOT NULL THEN 'its fence is not held' ELSE 'its batch has no owner' END AS reason
FROM stage_runs r JOIN stages s USING (stage)
WHERE r.finished_at IS NULL AND CASE WHEN r.fenced_at IS NOT NULL
    THEN NOT EXISTS (SELECT FROM held WHERE space = :fence_space AND key = 1000 * s.position + r.slot)
    ELSE NOT EXISTS (SELECT FROM held WHERE space IS NULL AND key = batch_lock_key(r.batch_id)) END
ORDER BY r.queued_at;

-- name: unfinished_runs_of_place(place)
-- Runs whose processes are visible to this process (same boot id and pid name space).
SELECT stage_run_id, batch_id, stage, host, pid, queued_at, started_at FROM stage_runs
WHERE finished_at IS NULL AND place = :place ORDER BY queued_at;

-- name: slots_in_use()
-- By the runs that hold a lease, and with the leases that processes may keep for a moment after a run.
SELECT s.stage, s.exclusive, count(DISTINCT r.lease_id) FILTER (WHERE r.finished_at IS NULL) AS running,
       count(DISTINCT r.lease_id) AS running_or_kept
FROM stages s LEFT JOIN stage_runs r ON r.stage = s.stage
    AND (r.finished_at IS NULL OR r.finished_at > clock_timestamp() - interval '1 second')
GROUP BY s.stage, s.exclusive, s.position ORDER BY s.position;

-- name: unaccounted_files()
-- Every received file is stored, stored in part, quarantined or waiting: each content has exactly one first
-- receipt, a completed batch has no waiting files, and a batch has as many files as it was created with.
SELECT s.source_id, s.name, b.batch_id, f.status,
       CASE WHEN r.receipts <> 1 THEN r.receipts || ' first receipts'
            ELSE 'waits in a completed batch' END AS reason
FROM source_files s
LEFT JOIN batch_files f USING (source_id) LEFT JOIN batch_processing b USING (batch_id)
CROSS JOIN LATERAL (SELECT count(*) AS receipts FROM receipts WHERE source_id = s.source_id AND NOT duplicate) r
WHERE r.receipts <> 1 OR (f.status = 'WAITING' AND b.status = 'COMPLETED')
UNION ALL
SELECT NULL, NULL, b.batch_id, b.status, 'made of ' || b.file_count || ' files, has ' || count(f.source_id)
FROM batch_processing b LEFT JOIN batch_files f USING (batch_id)
GROUP BY b.batch_id HAVING count(f.source_id) <> b.file_count
ORDER BY source_id, batch_id;

-- name: unpurged_sources()
-- Sources whose bytes must be in the directory of sources.
SELECT s.source_id, s.name, s.stored_path, s.size_bytes, f.batch_id, f.status
FROM source_files s LEFT JOIN batch_files f USING (source_id) WHERE s.purged_at IS NULL ORDER BY source_id;

-- name: half_done_batches(since)
-- Completed batches in which a stage never completed.
SELECT b.batch_id, b.completed_at, s.stage AS never_completed
FROM batch_processing b CROSS JOIN stages s
WHERE b.status = 'COMPLETED' AND (:since::timestamptz IS NULL OR b.completed_at >= :since)
  AND NOT EXISTS (SELECT FROM stage_runs r WHERE r.batch_id = b.batch_id AND r.stage = s.stage
                  AND r.outcome = 'COMPLETED')
ORDER BY b.batch_id, s.position;

-- name: unknown_batches(batch_ids)
SELECT batch_id FROM unnest(:batch_ids::text[]) AS named (batch_id)
WHERE NOT EXISTS (SELECT FROM batch_processing b WHERE b.batch_id = named.batch_id) ORDER BY batch_id;
