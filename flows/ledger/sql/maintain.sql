-- What has exceeded its retention time. Batches listed by a live backfill are exempt.

-- name: work_to_remove
SELECT batch_id FROM batch_processing b
WHERE batch_id = ANY (:batch_ids::text[])
  AND completed_at < clock_timestamp() - CASE status
      WHEN 'COMPLETED' THEN :completed_hours::float8 * interval '1 hour'
      WHEN 'FAILED' THEN :failed_days::float8 * interval '1 day' END
  AND NOT EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
ORDER BY batch_id;

-- name: purge_sources
-- If a content arrived again, its retention time starts at the last arrival.
UPDATE source_files SET purged_at = clock_timestamp() WHERE source_id IN (
    SELECT s.source_id FROM source_files s JOIN batch_files USING (source_id) JOIN batch_processing b USING (batch_id)
    WHERE s.purged_at IS NULL AND b.status = 'COMPLETED'
      AND b.completed_at < clock_timestamp() - :days::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM receipts r WHERE r.source_id = s.source_id
                      AND r.received_at >= clock_timestamp() - :days::float8 * interval '1 day')
      AND NOT EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
    LIMIT :page)
RETURNING stored_path;
