-- name: lock_intake
-- One run at a time plans, so that parent runs claim disjoint batches.
SELECT pg_advisory_lock(:space, 0);

-- name: unlock_intake
SELECT pg_advisory_unlock(:space, 0);

-- name: receive_source^
-- Record an arrival; is_new: the content was not in the ledger before.
WITH fresh AS (
    INSERT INTO source_files (sha256, name, size_bytes, stored_path)
    VALUES (:sha256, :name, :size_bytes, :stored_path)
    ON CONFLICT (sha256) DO NOTHING RETURNING source_id, stored_path, purged_at
), source AS (
    SELECT source_id, stored_path, purged_at, true AS is_new FROM fresh
    UNION ALL
    SELECT source_id, stored_path, purged_at, false FROM source_files
    WHERE sha256 = :sha256 AND NOT EXISTS (SELECT FROM fresh)
)
SELECT source_id, stored_path, purged_at, is_new FROM source;

-- name: clear_purged!
-- The content has arrived again and is stored again.
UPDATE source_files SET purged_at = NULL WHERE source_id = :source_id;

-- name: record_receipt!
INSERT INTO receipts (source_id, origin, duplicate) VALUES (:source_id, :origin, :duplicate);

-- name: own_run^
-- A parent run holds this lock while it is alive; no other run claims its batches.
SELECT pg_try_advisory_lock(run_lock_key(:flow_run_id)) AS owned;

-- name: frozen_batches
SELECT batch_id FROM run_batches WHERE flow_run_id = :flow_run_id ORDER BY position;

-- name: orphaned_batches
-- Unfinished batches that are not held and that no live run owns or has listed. flow_run_id is the last run that
-- processed the batch, parent_run_id the last run that listed it: null if that was before it was last resumed.
WITH held AS (
    SELECT key FROM advisory_locks WHERE granted AND space IS NULL
)
SELECT b.batch_id, (
    SELECT r.flow_run_id FROM stage_runs r WHERE r.batch_id = b.batch_id AND r.flow_run_id = b.flow_run_id
    AND r.queued_at >= coalesce(b.resumed_at, '-infinity') LIMIT 1
) AS flow_run_id, (
    SELECT r.flow_run_id FROM run_batches r WHERE r.batch_id = b.batch_id
    AND r.listed_at >= coalesce(b.resumed_at, '-infinity') ORDER BY r.listed_at DESC LIMIT 1
) AS parent_run_id
FROM batch_processing b
WHERE b.status NOT IN ('COMPLETED', 'FAILED') AND b.held_at IS NULL
  AND NOT EXISTS (SELECT FROM held WHERE key = batch_lock_key(b.batch_id))
  AND NOT EXISTS (SELECT FROM run_batches r JOIN held ON key = run_lock_key(r.flow_run_id)
                  WHERE r.batch_id = b.batch_id)
ORDER BY b.created_at, b.batch_id;

-- name: unbatched_sources
SELECT source_id FROM source_files s
WHERE purged_at IS NULL AND NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id)
ORDER BY source_id;

-- name: create_batch^
WITH batch AS (
    INSERT INTO batch_processing (file_count) VALUES (cardinality(:source_ids::bigint[])) RETURNING batch_id
), files AS (
    INSERT INTO batch_files (batch_id, source_id, position)
    SELECT batch_id, source_id, position FROM batch, unnest(:source_ids::bigint[]) WITH ORDINALITY AS u(source_id, position)
)
SELECT batch_id FROM batch;

-- name: freeze_batch!
INSERT INTO run_batches (flow_run_id, position, batch_id) VALUES (:flow_run_id, :position, :batch_id);
