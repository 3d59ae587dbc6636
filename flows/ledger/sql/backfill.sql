-- The batches of a backfill and its progress.

-- name: select_batches
-- A filter that is null matches every batch. Days are in UTC, both ends included.
SELECT b.batch_id FROM batch_processing b
WHERE (:batch_ids::text[] IS NULL OR b.batch_id = ANY (:batch_ids::text[]))
  AND (:status::text IS NULL OR b.status = :status::text)
  AND (:processed_from::date IS NULL OR (b.completed_at AT TIME ZONE 'UTC')::date >= :processed_from::date)
  AND (:processed_to::date IS NULL OR (b.completed_at AT TIME ZONE 'UTC')::date <= :processed_to::date)
  AND EXISTS (
      SELECT FROM batch_files f JOIN source_files s USING (source_id) WHERE f.batch_id = b.batch_id
        AND (:received_from::date IS NULL OR (s.received_at AT TIME ZONE 'UTC')::date >= :received_from::date)
        AND (:received_to::date IS NULL OR (s.received_at AT TIME ZONE 'UTC')::date <= :received_to::date)
        AND (:sha256::text IS NULL OR s.sha256 = :sha256::text)
        AND (:name_like::text IS NULL OR s.name ILIKE :name_like::text))
  AND (:error::text IS NULL OR strpos(lower(b.error_message), lower(:error::text)) > 0 OR EXISTS (
      SELECT FROM batch_files f WHERE f.batch_id = b.batch_id AND strpos(lower(f.error), lower(:error::text)) > 0))
ORDER BY b.created_at, b.batch_id;

-- name: list_batches!
INSERT INTO run_batches (flow_run_id, position, batch_id, from_stage)
SELECT :flow_run_id, position - 1, batch_id, :from_stage
FROM unnest(:batch_ids::text[]) WITH ORDINALITY AS listed (batch_id, position);

-- name: adopt_batches!
-- The batches of an earlier backfill that it did not complete.
INSERT INTO run_batches (flow_run_id, position, batch_id, from_stage, prepared_at)
SELECT :flow_run_id, row_number() OVER (ORDER BY r.position) - 1, r.batch_id, r.from_stage, r.prepared_at
FROM run_batches r JOIN batch_processing b USING (batch_id)
WHERE r.flow_run_id = :earlier AND r.from_stage IS NOT NULL AND (r.prepared_at IS NULL OR b.status <> 'COMPLETED');

-- name: listed_batches
SELECT batch_id, from_stage, prepared_at, listed_at FROM run_batches
WHERE flow_run_id = :flow_run_id ORDER BY position;

-- name: backfills_listed_since
SELECT flow_run_id FROM run_batches WHERE from_stage IS NOT NULL AND listed_at >= :moment
GROUP BY flow_run_id ORDER BY min(listed_at) DESC;

-- name: sources_of_batches
-- Those that extract reads: a quarantined file that was dropped keeps its outcome.
SELECT batch_id, name, stored_path, purged_at FROM batch_files JOIN source_files USING (source_id)
WHERE batch_id = ANY (:batch_ids::text[]) AND NOT (status = 'QUARANTINED' AND purged_at IS NOT NULL)
ORDER BY batch_id, position;

-- name: reset_later_files!
-- Files quarantined by a kept stage stay so, and those that were dropped; all other outcomes are recorded again when
-- the batch runs.
UPDATE batch_files SET status = 'WAITING', stage = NULL, error = NULL, chats = NULL, messages = NULL,
    rows_new = NULL, rows_changed = NULL, rows_same = NULL
WHERE batch_id = :batch_id AND NOT (status = 'QUARANTINED' AND (stage = ANY (:kept::text[]) OR EXISTS (
    SELECT FROM source_files s WHERE s.source_id = batch_files.source_id AND purged_at IS NOT NULL)));

-- name: mark_prepared!
UPDATE run_batches SET prepared_at = clock_timestamp() WHERE flow_run_id = :flow_run_id AND batch_id = :batch_id;

-- name: average_durations
SELECT stage, exclusive, (
    SELECT avg(duration_sec) FROM stage_timings t WHERE t.stage = s.stage AND outcome = 'COMPLETED') AS average_sec
FROM stages s ORDER BY position;
