-- name: end_no_wait
-- A time-out that the server, the role or the database sets for others must not end a wait for a lock, or a
-- session that holds one. Not every server knows all five.
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
-- Liveness without time-outs: if the batch's lock can be acquired, no live run owns the batch.
SELECT pg_try_advisory_lock(batch_lock_key(:batch_id)) AS owned,
       (SELECT status FROM batch_processing WHERE batch_id = :batch_id) AS status;

-- name: batch_outcome^
-- The result of the batch's run in another process; owned: that run is alive.
SELECT status, error_message, EXISTS (
    SELECT FROM advisory_locks WHERE granted AND space IS NULL AND key = batch_lock_key(:batch_id)) AS owned
FROM batch_processing WHERE batch_id = :batch_id;

-- name: batch_sources
SELECT source_id, name, stored_path FROM batch_files JOIN source_files USING (source_id)
WHERE batch_id = :batch_id ORDER BY position;

-- name: record_files!
-- A later stage never improves the outcome of an earlier one: QUARANTINED and PARTIAL stay.
UPDATE batch_files f SET stage = :stage, error = coalesce(n.error, f.error),
    status = CASE WHEN f.status IN ('QUARANTINED', 'PARTIAL') AND n.status <> 'QUARANTINED' THEN f.status ELSE n.status END,
    chats = coalesce(n.chats, f.chats), messages = coalesce(n.messages, f.messages)
FROM jsonb_to_recordset(:files)
    AS n (source_id bigint, status text, error text, chats integer, messages bigint)
WHERE f.batch_id = :batch_id AND f.source_id = n.source_id;

-- name: has_completed^
SELECT EXISTS (SELECT FROM stage_runs WHERE batch_id = :batch_id AND stage = :stage AND outcome = 'COMPLETED')
       AS completed;

-- name: reset_files!
UPDATE batch_files SET status = 'WAITING', stage = NULL, error = NULL, chats = NULL, messages = NULL
WHERE batch_id = :batch_id;

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
       count(*) FILTER (WHERE f.status = 'QUARANTINED') AS quarantined,
       coalesce(sum(f.messages), 0)::bigint AS messages
FROM batch_processing b LEFT JOIN batch_files f USING (batch_id)
WHERE b.batch_id = :batch_id GROUP BY b.batch_id;
