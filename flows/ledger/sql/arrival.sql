-- Files that wait for an inbox run: in the inbox, as far as the ledger knows them, and in the ledger; and the
-- runs that will receive them.

-- name: left_here
SELECT name, sighting, reason, is_error FROM left_files WHERE folder = :folder;

-- name: watch_files
-- is_quiet: the file has not changed for quiet_seconds. Rows of files that no longer exist are removed after
-- a day.
WITH gone AS (
    DELETE FROM seen_files
    WHERE seen_at < clock_timestamp() - interval '1 day' AND sighting <> ALL (:sightings::text[])
), new AS (
    INSERT INTO seen_files (sighting) SELECT DISTINCT unnest(:sightings::text[]) ON CONFLICT DO NOTHING
)
SELECT sighting, seen_at <= clock_timestamp() - :quiet_seconds * interval '1 second' AS is_quiet
FROM seen_files WHERE sighting = ANY (:sightings::text[]);

-- name: unfinished_intake
-- Sources without a batch: a run claims all of them, so it is enough to look at the last thousand sources.
-- Also the arrivals that a dead run has announced: a live run holds the intake lock while it receives them.
SELECT 'source ' || source_id AS thing, stored_path, false AS is_announced
FROM (SELECT * FROM source_files ORDER BY source_id DESC LIMIT 1000) s
WHERE purged_at IS NULL AND NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id)
UNION ALL
SELECT 'arrival ' || sha256, stored_path, true FROM arrivals
WHERE NOT EXISTS (SELECT FROM advisory_locks WHERE granted AND space = :space);

-- name: planned_runs
-- Those of the runs that have planned: what arrives now is not in their lists.
SELECT DISTINCT flow_run_id FROM run_batches WHERE flow_run_id = ANY (:flow_run_ids::uuid[]);
