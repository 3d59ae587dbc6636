-- name: end_no_wait
-- A timeout that the server, the role or the database sets for others must not end a wait for a lock, or a
-- session that holds one. Older servers do not have all five settings.
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout',
               'idle_in_transaction_session_timeout');

-- name: name_session
SELECT set_config('application_name', :application, false);

-- name: terminate_session
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE pid = :pid AND application_name = :application;

-- name: release_batch
SELECT pg_advisory_unlock(batch_lock_key(:batch_id));

-- name: own_batch^
-- Liveness without timeouts: if the batch's lock can be acquired, no live run owns the batch.
SELECT pg_try_advisory_lock(batch_lock_key(:batch_id)) AS owned,
       (SELECT status FROM batch_processing WHERE batch_id = :batch_id) AS status;

-- name: batch_outcome^
-- The result of the batch's run in another process; owned: that run is alive.
SELECT status, error_message, held_because, EXISTS (
    SELECT FROM advisory_locks WHERE granted AND space IS NULL AND key = batch_lock_key(:batch_id)) AS owned
FROM batch_processing WHERE batch_id = :batch_id;

-- name: batch_sources
-- Without quarantined files that were dropped.
SELECT source_id, name, sha256, size_bytes, stored_path FROM batch_files JOIN source_files USING (source_id)
WHERE batch_id = :batch_id AND NOT (status = 'QUARANTINED' AND purged_at IS NOT NULL) ORDER BY position;

-- name: record_files!
-- A later stage never improves the outcome of an earlier one: QUARANTINED and PARTIAL remain, with the
-- reason. A result can be recorded again. A new quarantine awaits a decision, also of a file that was
-- returned before.
WITH undecided AS (
    UPDATE source_files s SET returned_at = NULL
    FROM jsonb_to_recordset(:files) AS n (source_id bigint, status text) JOIN batch_files f USING (source_id)
    WHERE s.source_id = n.source_id AND s.returned_at IS NOT NULL
      AND n.status = 'QUARANTINED' AND f.status <> 'QUARANTINED'
)
UPDATE batch_files f SET stage = :stage,
    error = CASE WHEN strpos(f.error, n.error) > 0 THEN f.error ELSE nullif(concat_ws('; ', f.error, n.error), '') END,
    status = CASE WHEN f.status IN ('QUARANTINED', 'PARTIAL') AND n.status <> 'QUARANTINED' THEN f.status ELSE n.status END,
    chats = coalesce(n.chats, f.chats), messages = coalesce(n.messages, f.messages),
    rows_new = coalesce(n.rows_new, f.rows_new), rows_changed = coalesce(n.rows_changed, f.rows_changed),
    rows_same = coalesce(n.rows_same, f.rows_same)
FROM jsonb_to_recordset(:files)
    AS n (source_id bigint, status text, error text, chats integer, messages bigint, rows_new bigint,
          rows_changed bigint, rows_same bigint)
WHERE f.batch_id = :batch_id AND f.source_id = n.source_id;

-- name: has_completed^
SELECT EXISTS (SELECT FROM stage_runs WHERE batch_id = :batch_id AND stage = :stage AND outcome = 'COMPLETED')
       AS completed;

-- name: reset_files!
-- Quarantined files that were dropped keep their outcome, because extract does not read them again.
UPDATE batch_files SET status = 'WAITING', stage = NULL, error = NULL, chats = NULL, messages = NULL,
    rows_new = NULL, rows_changed = NULL, rows_same = NULL
WHERE batch_id = :batch_id AND NOT (status = 'QUARANTINED' AND EXISTS (
    SELECT FROM source_files s WHERE s.source_id = batch_files.source_id AND purged_at IS NOT NULL));

-- name: complete_batch!
WITH files AS (
    UPDATE batch_files SET status = 'STORED' WHERE batch_id = :batch_id AND status = 'WAITING'
)
UPDATE batch_processing SET status = 'COMPLETED', completed_at = clock_timestamp(), error_message = NULL
WHERE batch_id = :batch_id;

-- name: fail_batch!
UPDATE batch_processing SET status = 'FAILED', completed_at = clock_timestamp(), error_message = :error,
    flow_run_id = coalesce(:flow_run_id, flow_run_id)
WHERE batch_id = :batch_id;

-- name: requeue_batch!
UPDATE batch_processing SET status = 'QUEUED', completed_at = NULL, error_message = NULL WHERE batch_id = :batch_id;

-- name: batch_report^
SELECT b.batch_id, b.status, b.file_count,
       count(*) FILTER (WHERE f.status = 'STORED') AS stored,
       count(*) FILTER (WHERE f.status = 'PARTIAL') AS partial,
       count(*) FILTER (WHERE f.status = 'QUARANTINED' AND s.dropped_at IS NULL) AS quarantined,
       coalesce(sum(f.messages), 0)::bigint AS messages
FROM batch_processing b LEFT JOIN batch_files f USING (batch_id) LEFT JOIN source_files s USING (source_id)
WHERE b.batch_id = :batch_id GROUP BY b.batch_id;

-- name: hold_batches
-- No run processes these batches until they are resumed. Completed and failed batches cannot be held.
UPDATE batch_processing SET held_at = clock_timestamp(), held_because = :reason
WHERE (:batch_ids::text[] IS NULL OR batch_id = ANY (:batch_ids::text[])) AND held_at IS NULL
  AND status NOT IN ('COMPLETED', 'FAILED') RETURNING batch_id;

-- name: hold_listed
-- The unfinished batches of a stopped run, except those that another live run processes or has listed.
WITH others AS MATERIALIZED (
    SELECT key FROM advisory_locks WHERE granted AND space IS NULL AND pid <> pg_backend_pid()
)
UPDATE batch_processing b SET status = 'QUEUED', held_at = coalesce(held_at, clock_timestamp()),
    held_because = coalesce(held_because, :reason)
FROM (SELECT DISTINCT batch_id FROM run_batches WHERE flow_run_id = :flow_run_id) listed
WHERE b.batch_id = listed.batch_id AND b.status NOT IN ('COMPLETED', 'FAILED')
  AND NOT EXISTS (SELECT FROM others WHERE key = batch_lock_key(b.batch_id))
  AND NOT EXISTS (SELECT FROM run_batches r JOIN others ON key = run_lock_key(r.flow_run_id)
                  WHERE r.batch_id = b.batch_id)
RETURNING b.batch_id;

-- name: hold_stopped!
-- The run of this batch was stopped. If a hold stopped it, the batch keeps the reason of that hold.
UPDATE batch_processing SET status = 'QUEUED', completed_at = NULL, error_message = NULL,
    held_at = coalesce(held_at, clock_timestamp()), held_because = coalesce(held_because, :reason)
WHERE batch_id = :batch_id AND status <> 'COMPLETED';

-- name: resume_batches
UPDATE batch_processing SET held_at = NULL, held_because = NULL, resumed_at = clock_timestamp()
WHERE (:batch_ids::text[] IS NULL OR batch_id = ANY (:batch_ids::text[])) AND held_at IS NOT NULL RETURNING batch_id;

-- name: requeue_failed!
-- A retried run processes the failed batches of its list again. Those that a backfill has not prepared keep their
-- status until their turn.
UPDATE batch_processing b SET status = 'QUEUED', completed_at = NULL, error_message = NULL
FROM run_batches r WHERE r.flow_run_id = :flow_run_id AND r.batch_id = b.batch_id AND b.status = 'FAILED'
  AND (r.from_stage IS NULL OR r.prepared_at IS NOT NULL);

-- name: resume_listed!
-- A retried run or a backfill also processes the held batches of its list.
UPDATE batch_processing b SET held_at = NULL, held_because = NULL, resumed_at = clock_timestamp()
FROM run_batches r WHERE r.flow_run_id = :flow_run_id AND r.batch_id = b.batch_id AND b.held_at IS NOT NULL;

-- name: held_batches
-- Those of these batches that are held. at_work: a stage of the batch is at work; it may finish.
SELECT batch_id, held_because, EXISTS (
    SELECT FROM stage_runs r
    WHERE r.batch_id = b.batch_id AND r.started_at IS NOT NULL AND r.finished_at IS NULL) AS at_work
FROM batch_processing b WHERE batch_id = ANY (:batch_ids::text[]) AND held_at IS NOT NULL;

-- name: held_of_run
-- The held batches of a run: of its list, or the one it processed.
SELECT batch_id FROM batch_processing b WHERE held_at IS NOT NULL
  AND (flow_run_id = :flow_run_id OR EXISTS (
      SELECT FROM run_batches r WHERE r.flow_run_id = :flow_run_id AND r.batch_id = b.batch_id))
ORDER BY batch_id;

-- name: statuses_of
SELECT batch_id, status, held_at IS NOT NULL AS held FROM batch_processing WHERE batch_id = ANY (:batch_ids::text[]);
