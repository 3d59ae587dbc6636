-- name: lock_intake
-- Only one run plans at a time, so that parent runs claim disjoint batches.
SELECT pg_advisory_lock(:space, 0);

-- name: unlock_intake
SELECT pg_advisory_unlock(:space, 0);

-- name: intake_moves^
-- The monitor reports an intake lock that is held while this time does not advance.
UPDATE intake SET moved_at = clock_timestamp() RETURNING moved_at;

-- name: known_sightings
-- is_quiet: the file needs no second check, because it was received before, left, or unchanged for long
-- enough.
SELECT sighting, bool_or(is_quiet) AS is_quiet FROM (
    SELECT sighting, true AS is_quiet FROM receipts
    UNION ALL SELECT sighting, true FROM left_files
    UNION ALL SELECT sighting, seen_at <= clock_timestamp() - :quiet_seconds * interval '1 second' FROM seen_files
) s WHERE sighting = ANY (:sightings::text[]) GROUP BY sighting;

-- name: received_before
SELECT s.stored_path, s.size_bytes, s.purged_at, f.batch_id, f.status, f.error
FROM receipts r JOIN source_files s USING (source_id) LEFT JOIN batch_files f USING (source_id)
WHERE r.sighting = :sighting;

-- name: source_of_content
SELECT s.source_id, s.name, s.stored_path, s.size_bytes, s.purged_at, f.batch_id, f.status, f.error
FROM source_files s LEFT JOIN batch_files f USING (source_id) WHERE s.sha256 = :sha256;

-- name: announce_arrival!
-- An arrival that an earlier attempt has announced is announced again, from where the content is now.
INSERT INTO arrivals (sha256, name, size_bytes, stored_path, origin, sighting)
VALUES (:sha256, :name, :size_bytes, :stored_path, :origin, :sighting)
ON CONFLICT (sha256) DO UPDATE SET name = excluded.name, origin = excluded.origin, sighting = excluded.sighting,
    stored_path = excluded.stored_path, announced_at = clock_timestamp();

-- name: announced_arrivals
SELECT sha256, name, size_bytes, stored_path, origin FROM arrivals ORDER BY announced_at;

-- name: withdraw_arrival!
DELETE FROM arrivals WHERE sha256 = :sha256;

-- name: record_arrival^
-- The bytes are stored. is_new: the content was not in the ledger before. Purged content is stored again.
WITH arrival AS (
    DELETE FROM arrivals WHERE sha256 = :sha256 RETURNING *
), source AS (
    INSERT INTO source_files (sha256, name, size_bytes, stored_path)
    SELECT sha256, name, size_bytes, stored_path FROM arrival
    ON CONFLICT (sha256) DO UPDATE SET stored_path = excluded.stored_path, purged_at = NULL, returned_at = NULL,
        dropped_at = NULL
    RETURNING source_id, xmax = 0 AS is_new
), receipt AS (
    INSERT INTO receipts (source_id, origin, sighting, duplicate)
    SELECT source_id, origin, sighting, NOT is_new FROM source, arrival
), moved AS (
    UPDATE intake SET moved_at = clock_timestamp()
)
SELECT source_id, is_new FROM source;

-- name: record_duplicate!
WITH moved AS (
    UPDATE intake SET moved_at = clock_timestamp()
)
INSERT INTO receipts (source_id, origin, sighting, duplicate) VALUES (:source_id, :origin, :sighting, true);

-- name: note_left
-- Replace what was left in the folder, except an entry named :retained; return what was not noted there before.
WITH here AS (
    SELECT name, sighting, reason, is_error
    FROM jsonb_to_recordset(:entries) AS n (name text, sighting text, reason text, is_error boolean)
), gone AS (
    DELETE FROM left_files l WHERE folder = :folder AND name <> :retained AND NOT EXISTS (
        SELECT FROM here h WHERE (h.name, h.sighting, h.reason) = (l.name, l.sighting, l.reason))
)
INSERT INTO left_files (folder, name, sighting, reason, is_error)
SELECT :folder, name, sighting, reason, is_error FROM here h WHERE NOT EXISTS (
    SELECT FROM left_files l WHERE folder = :folder
      AND (h.name, h.sighting, h.reason) = (l.name, l.sighting, l.reason))
RETURNING name, reason, is_error;

-- name: folders_with_kept
SELECT folder, noticed_at FROM left_files WHERE name = :name;

-- name: note_kept!
-- Originals may be hidden in the folder from now on; the entries that were left there remain listed.
WITH noted AS (
    UPDATE left_files SET noticed_at = clock_timestamp() WHERE folder = :folder AND name = :name RETURNING folder
)
INSERT INTO left_files (folder, name, sighting, reason, is_error)
SELECT :folder, :name, '', :reason, false WHERE NOT EXISTS (SELECT FROM noted);

-- name: say_what_is_kept!
UPDATE left_files SET reason = :reason WHERE folder = :folder AND name = :name AND reason <> :reason;

-- name: note_put_back!
INSERT INTO left_files (folder, name, sighting, reason, is_error)
SELECT :folder, name, '', :reason, true FROM unnest(:names::text[]) AS back (name);

-- name: forget_kept!
-- Except if a run has noted since then that it is about to hide originals there.
DELETE FROM left_files WHERE folder = :folder AND name = :name AND noticed_at = :noticed_at;

-- name: batches_to_restore
-- Batches with files that were quarantined because their stored file was missing, and these sources' batches.
-- A quarantined file that was dropped is not needed to run its batch again.
SELECT f.batch_id, array_agg(f.stored_path) AS stored_paths FROM (
    SELECT batch_id, stored_path FROM batch_files JOIN source_files USING (source_id)
    WHERE status = 'QUARANTINED' AND starts_with(error, :reason) AND purged_at IS NULL
    UNION ALL
    SELECT batch_id, stored_path FROM batch_files JOIN source_files USING (source_id)
    WHERE source_id = ANY (:source_ids::bigint[])
) f JOIN batch_processing b USING (batch_id)
WHERE b.status IN ('COMPLETED', 'FAILED')
  AND NOT EXISTS (SELECT FROM batch_files o JOIN source_files p USING (source_id)
                  WHERE o.batch_id = f.batch_id AND p.purged_at IS NOT NULL AND o.status <> 'QUARANTINED')
GROUP BY f.batch_id ORDER BY f.batch_id;

-- name: own_run^
-- A parent run holds this lock while it is alive; no other run claims its batches.
SELECT pg_try_advisory_lock(run_lock_key(:flow_run_id)) AS owned;

-- name: frozen_batches
-- Negative positions: the run was stopped while it received files, and its retry receives the others.
SELECT batch_id, position FROM run_batches WHERE flow_run_id = :flow_run_id ORDER BY position;

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
-- Received since a time (null: ever). uploader: null for files of folders, which count as those of one uploader.
SELECT source_id, stored_path, (
    SELECT min(user_id) FROM uploads u WHERE u.source_id = s.source_id
) AS uploader FROM source_files s
WHERE purged_at IS NULL AND (:since::timestamptz IS NULL OR received_at >= :since)
  AND NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id)
ORDER BY source_id;

-- name: create_batch^
WITH batch AS (
    INSERT INTO batch_processing (file_count) VALUES (cardinality(:source_ids::bigint[])) RETURNING batch_id
), files AS (
    INSERT INTO batch_files (batch_id, source_id, position)
    SELECT batch_id, source_id, position FROM batch, unnest(:source_ids::bigint[]) WITH ORDINALITY AS u(source_id, position)
)
SELECT batch_id FROM batch;

-- name: end_list!
-- The run has received all files: its list begins with the batches of those received before it was stopped.
UPDATE run_batches SET position = position + :listed WHERE flow_run_id = :flow_run_id AND position < 0;

-- name: freeze_batch!
INSERT INTO run_batches (flow_run_id, position, batch_id) VALUES (:flow_run_id, :position, :batch_id);
