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
-- If a content arrived again, its retention time starts at the last arrival. A quarantined file is kept until
-- an operator returns it (then its retention time starts) or drops it, or, if its stored file is missing,
-- until its content arrives again. The other files of its batch are kept as long, because a batch can only
-- run again with all its files.
UPDATE source_files SET purged_at = clock_timestamp() WHERE source_id IN (
    SELECT s.source_id FROM source_files s JOIN batch_files USING (source_id) JOIN batch_processing b USING (batch_id)
    WHERE s.purged_at IS NULL AND b.status = 'COMPLETED'
      AND b.completed_at < clock_timestamp() - :days::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM receipts r WHERE r.source_id = s.source_id
                      AND r.received_at >= clock_timestamp() - :days::float8 * interval '1 day')
      AND NOT EXISTS (SELECT FROM batch_files o JOIN source_files q USING (source_id)
                      WHERE o.batch_id = b.batch_id AND o.status = 'QUARANTINED' AND q.purged_at IS NULL
                        AND (starts_with(o.error, :gone)
                             OR coalesce(q.returned_at >= clock_timestamp() - :days::float8 * interval '1 day', true)))
      AND NOT EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
    LIMIT :page)
RETURNING stored_path;

-- name: recently_purged
-- Their stored files may still exist, if a run died between the purge and the removal.
SELECT stored_path FROM source_files WHERE purged_at > clock_timestamp() - interval '7 days'
  AND NOT EXISTS (SELECT FROM arrivals a WHERE a.sha256 = source_files.sha256);

-- name: chosen_sources
-- These source files, or all quarantined ones that are not dropped or purged. needed_by: a run may need the file.
SELECT s.source_id, s.name, s.sha256, s.stored_path, s.purged_at, s.dropped_at, f.status,
       file_outcome(f.status, s.returned_at, s.dropped_at) AS outcome,
       CASE WHEN b.status NOT IN ('COMPLETED', 'FAILED')
            THEN b.batch_id || ' is not finished: it is ' || CASE WHEN b.held_at IS NULL THEN b.status ELSE 'held' END
            WHEN EXISTS (SELECT FROM living_backfills l WHERE l.batch_id = b.batch_id)
            THEN 'a backfill is about to process ' || b.batch_id END AS needed_by
FROM source_files s LEFT JOIN batch_files f USING (source_id) LEFT JOIN batch_processing b USING (batch_id)
WHERE s.source_id = ANY (:ids::bigint[])
   OR (:ids::bigint[] IS NULL AND f.status = 'QUARANTINED' AND s.purged_at IS NULL)
ORDER BY s.source_id;

-- name: mark_returned!
UPDATE source_files SET returned_at = clock_timestamp() WHERE source_id = :source_id;

-- name: drop_sources!
UPDATE source_files SET dropped_at = clock_timestamp(), purged_at = coalesce(purged_at, clock_timestamp())
WHERE source_id = ANY (:ids::bigint[]);

-- name: forget_left!
-- A folder of `tdp run` may never be processed again, so its entries are listed as long as the run is kept in
-- Prefect.
DELETE FROM left_files WHERE folder <> :inbox AND noticed_at < clock_timestamp() - :days::float8 * interval '1 day';
