-- What is past the time it is kept. A batch that a living backfill has listed keeps everything.

-- name: work_to_remove
SELECT batch_id FROM batch_processing b
WHERE batch_id = ANY (:batch_ids::text[])
  AND completed_at < clock_timestamp() - CASE status
      WHEN 'COMPLETED' THEN :completed_hours::float8 * interval '1 hour'
      WHEN 'FAILED' THEN :failed_days::float8 * interval '1 day' END
  AND NOT EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
ORDER BY batch_id;

-- name: purge_sources
-- A file that arrived again is kept from then on.
UPDATE source_files SET purged_at = clock_timestamp() WHERE source_id IN (
    SELECT s.source_id FROM source_files s JOIN batch_files USING (source_id) JOIN batch_processing b USING (batch_id)
    WHERE s.purged_at IS NULL AND b.status = 'COMPLETED'
      AND b.completed_at < clock_timestamp() - :days::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM receipts r WHERE r.source_id = s.source_id
                      AND r.received_at >= clock_timestamp() - :days::float8 * interval '1 day')
      AND NOT EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
    LIMIT :page)
RETURNING stored_path;
