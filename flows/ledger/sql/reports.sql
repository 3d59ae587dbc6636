-- Queries of the reports. All intervals are in seconds of the database's clock.

-- name: clock()$
SELECT clock_timestamp();

-- name: lanes()
SELECT q.stage, s.exclusive, q.waiting, q.running, q.oldest_wait_sec
FROM queue_sizes q JOIN stages s USING (stage) ORDER BY s.position;

-- name: open_runs()
-- Per stage the holders first, then the waiters in queue order.
SELECT t.stage, t.batch_id, t.attempt, t.host, t.pid, t.queued_at, t.started_at, t.wait_sec, t.duration_sec
FROM stage_timings t JOIN stages s USING (stage)
WHERE t.finished_at IS NULL
ORDER BY s.position, t.started_at NULLS LAST, t.queued_at, t.stage_run_id;

-- name: foreign_holders(space)
-- Sessions that hold the fence of a stage and are none of the pipeline's: those have names that begin with tdp, and
-- write the ledger.
SELECT s.stage, a.pid, a.usename AS "user", a.application_name AS application
FROM advisory_locks l JOIN stages s ON l.key / 1000 = s.position JOIN pg_stat_activity a USING (pid)
WHERE l.granted AND l.space = :space
  AND (a.application_name !~ '^tdp ' OR NOT has_table_privilege(a.usesysid, 'stage_runs', 'INSERT'))
ORDER BY s.position, a.pid;

-- name: batch_statuses()
SELECT status, count(*) AS batches FROM batch_processing GROUP BY status
ORDER BY array_position('{QUEUED,EXTRACTING,CONVERTING,STORING,COMPLETED,FAILED}', status);

-- name: left_count()$
SELECT count(*) FROM left_files;

-- name: held_count()$
SELECT count(*) FROM batch_processing WHERE held_at IS NOT NULL;

-- name: file_counts()^
-- A source file without a batch counts as waiting; quarantined are those without a decision of an operator.
SELECT (SELECT count(*) FROM receipts WHERE NOT duplicate) AS received,
       count(*) FILTER (WHERE outcome = 'STORED') AS stored,
       count(*) FILTER (WHERE outcome = 'PARTIAL') AS partial,
       count(*) FILTER (WHERE outcome = 'QUARANTINED') AS quarantined,
       count(*) FILTER (WHERE outcome = 'RETURNED') AS returned,
       count(*) FILTER (WHERE outcome = 'DROPPED') AS dropped,
       count(*) FILTER (WHERE outcome = 'WAITING') AS waiting,
       (SELECT count(*) FROM receipts WHERE duplicate) AS duplicates
FROM (SELECT file_outcome(f.status, s.returned_at, s.dropped_at) AS outcome
      FROM source_files s LEFT JOIN batch_files f USING (source_id)) files;

-- name: batches(status, held, since, limit)
SELECT b.batch_id, b.status, b.file_count, f.messages, f.quarantined, b.created_at, b.started_at,
       b.completed_at, b.extract_duration_sec, b.convert_duration_sec, b.store_duration_sec, b.error_message,
       b.held_at, b.held_because
FROM batch_processing b CROSS JOIN LATERAL (
    SELECT coalesce(sum(messages), 0)::bigint AS messages,
           count(*) FILTER (WHERE file_outcome(status, returned_at, dropped_at) = 'QUARANTINED') AS quarantined
    FROM batch_files JOIN source_files USING (source_id) WHERE batch_id = b.batch_id
) f
WHERE (:status::text IS NULL OR b.status = :status) AND (NOT :held OR b.held_at IS NOT NULL)
  AND (:since::timestamptz IS NULL OR b.created_at >= :since)
ORDER BY b.created_at DESC, b.batch_id DESC
LIMIT :limit;

-- name: batch(batch_id)^
SELECT batch_id, status, file_count, created_at, started_at, completed_at, error_message,
       flow_run_id::text AS flow_run_id, held_at, held_because,
       CASE WHEN status <> 'COMPLETED' THEN (
           SELECT s.stage FROM stages s
           WHERE NOT EXISTS (SELECT FROM stage_runs r WHERE r.batch_id = b.batch_id AND r.stage = s.stage
                             AND r.outcome = 'COMPLETED' AND r.queued_at > coalesce(
                 -- A stage completed before a backfill discarded its output must run again.
                 (SELECT max(l.prepared_at) FROM run_batches l JOIN stages f ON f.stage = l.from_stage
                  WHERE l.batch_id = b.batch_id AND f.position <= s.position), '-infinity'))
           ORDER BY s.position LIMIT 1) END AS resumes_at
FROM batch_processing b WHERE batch_id = :batch_id;

-- name: batch_files(batch_id)
SELECT f.position, s.source_id AS id, s.name, s.size_bytes, file_outcome(f.status, s.returned_at, s.dropped_at) AS status,
       f.stage, f.error, f.chats, f.messages, f.rows_new AS new, f.rows_changed AS changed, f.rows_same AS known,
       s.returned_at, s.dropped_at
FROM batch_files f JOIN source_files s USING (source_id)
WHERE f.batch_id = :batch_id ORDER BY f.position;

-- name: batch_stage_runs(batch_id)
SELECT t.stage, t.attempt, t.outcome, t.host, t.pid, t.queued_at, t.started_at, t.finished_at,
       t.wait_sec, t.duration_sec, t.files, t.bytes_in, r.error
FROM stage_timings t JOIN stage_runs r USING (stage_run_id)
WHERE t.batch_id = :batch_id ORDER BY t.queued_at, t.stage_run_id;

-- name: run_batch_ids(flow_run_id)$
-- The batches of a parent run in frozen order, or the batch of a process-batch run.
SELECT coalesce(
    (SELECT array_agg(batch_id ORDER BY position) FROM run_batches WHERE flow_run_id = :flow_run_id::uuid),
    (SELECT array_agg(batch_id ORDER BY batch_id) FROM (
        SELECT batch_id FROM batch_processing WHERE flow_run_id = :flow_run_id::uuid
        UNION SELECT batch_id FROM stage_runs WHERE flow_run_id = :flow_run_id::uuid) own),
    '{}') AS batch_ids;

-- name: run_stage_runs(flow_run_id)$
-- The stage runs of a flow run: those of its batches from when it listed them until another run did, and its own.
SELECT coalesce(array_agg(stage_run_id), '{}') FROM (
    SELECT r.stage_run_id FROM run_batches l JOIN stage_runs r ON r.batch_id = l.batch_id
    WHERE l.flow_run_id = :flow_run_id::uuid AND r.queued_at >= l.listed_at
      AND NOT EXISTS (SELECT FROM run_batches n WHERE n.batch_id = l.batch_id
                      AND n.listed_at > l.listed_at AND n.listed_at <= r.queued_at)
    UNION SELECT stage_run_id FROM stage_runs WHERE flow_run_id = :flow_run_id::uuid
) own;

-- name: stage_runs(ids, batch_ids, since)
-- Stage runs by id, by batch and by queueing time (null: no condition), oldest first.
SELECT t.batch_id, t.stage, s.exclusive, r.slot, t.attempt, t.outcome, t.queued_at, t.started_at,
       coalesce(t.finished_at, clock_timestamp()) AS ended_at, t.wait_sec, t.duration_sec, t.files, t.bytes_in
FROM stage_timings t JOIN stage_runs r USING (stage_run_id) JOIN stages s ON s.stage = t.stage
WHERE (:ids::bigint[] IS NULL OR t.stage_run_id = ANY (:ids::bigint[]))
  AND (:batch_ids::text[] IS NULL OR t.batch_id = ANY (:batch_ids::text[]))
  AND (:since::timestamptz IS NULL OR t.queued_at >= :since)
ORDER BY t.queued_at, t.stage_run_id;

-- name: timings(by, ids, since, limits)
-- Per group and stage, over stage runs by id and by queueing time (null: no condition). Multiranges measure how
-- long a lane had at least one run at work, and how long it had one at work or waiting.
WITH runs AS (
    SELECT t.*, s.position, s.exclusive, t.outcome = 'COMPLETED' AS completed, e.ended_at,
           CASE :by WHEN 'batch' THEN t.batch_id
                    WHEN 'day' THEN to_char(t.queued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
                    ELSE 'all' END AS "group",
           tstzrange(t.queued_at, greatest(e.ended_at, t.queued_at)) AS present,
           tstzrange(t.started_at, greatest(e.ended_at, t.started_at)) AS at_work
    FROM stage_timings t JOIN stages s USING (stage)
    CROSS JOIN LATERAL (SELECT coalesce(t.finished_at, clock_timestamp()) AS ended_at) e
    WHERE (:ids::bigint[] IS NULL OR t.stage_run_id = ANY (:ids::bigint[]))
      AND (:since::timestamptz IS NULL OR t.queued_at >= :since)
), elapsed AS (
    SELECT "group", extract(epoch FROM max(ended_at) - min(queued_at))::float8 AS elapsed FROM runs GROUP BY 1
), lanes AS (
    SELECT "group", position, stage, exclusive,
           count(*) AS runs,
           count(*) FILTER (WHERE outcome NOT IN ('COMPLETED', 'CANCELLED')) AS failed,
           count(*) FILTER (WHERE outcome = 'CANCELLED') AS cancelled,
           percentile_cont('{0.5,0.95}'::float8[]) WITHIN GROUP (ORDER BY wait_sec)
               FILTER (WHERE started_at IS NOT NULL) AS waits,
           percentile_cont('{0.5,0.95}'::float8[]) WITHIN GROUP (ORDER BY duration_sec)
               FILTER (WHERE completed) AS durations,
           (sum(files) FILTER (WHERE completed))::float8 AS files,
           (sum(bytes_in) FILTER (WHERE completed))::float8 / 1e6 AS mb,
           coalesce(sum(duration_sec), 0) AS worked,
           range_agg(present) AS present,
           range_agg(at_work) FILTER (WHERE started_at IS NOT NULL) AS at_work
    FROM runs GROUP BY "group", position, stage, exclusive
)
SELECT "group", stage, runs, failed, cancelled, waits[1] AS wait_median, waits[2] AS wait_p95,
       durations[1] AS duration_median, durations[2] AS duration_p95,
       files / nullif(busy, 0) AS files_per_sec, mb / nullif(busy, 0) AS mb_per_sec,
       worked / CASE WHEN exclusive THEN 1 ELSE (:limits::jsonb ->> stage)::float8 END / nullif(elapsed, 0)
           AS utilisation,
       CASE WHEN exclusive THEN around - busy END AS idle_sec
FROM lanes JOIN elapsed USING ("group")
CROSS JOIN LATERAL (
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0)::float8 AS around
    FROM unnest(present) AS span) a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0)::float8 AS busy
    FROM unnest(at_work) AS span) b
ORDER BY "group", position;

-- name: stored_rows(batch_ids)^
-- What the last store of each of these batches did, of those that are completed: messages that were new, changed and
-- known.
SELECT coalesce(sum(whole_number(counts ->> 'rows_new')), 0)::bigint AS new,
       coalesce(sum(whole_number(counts ->> 'rows_changed')), 0)::bigint AS changed,
       coalesce(sum(whole_number(counts ->> 'rows_same')), 0)::bigint AS known
FROM (
    SELECT DISTINCT ON (batch_id) counts FROM stage_runs JOIN batch_processing USING (batch_id)
    WHERE batch_id = ANY (:batch_ids::text[]) AND status = 'COMPLETED' AND stage = 'store' AND outcome = 'COMPLETED'
    ORDER BY batch_id, queued_at DESC
) AS stored;

-- name: batch_totals(batch_ids)^
SELECT count(DISTINCT b.batch_id) AS batches,
       count(f.source_id) AS files,
       count(f.source_id) FILTER (WHERE f.status = 'STORED') AS stored,
       count(f.source_id) FILTER (WHERE f.status = 'PARTIAL') AS partial,
       count(f.source_id) FILTER (WHERE f.status = 'QUARANTINED' AND s.dropped_at IS NULL) AS quarantined,
       count(f.source_id) FILTER (WHERE f.status = 'QUARANTINED' AND s.dropped_at IS NOT NULL) AS dropped,
       count(f.source_id) FILTER (WHERE f.status = 'WAITING') AS waiting,
       coalesce(sum(s.size_bytes), 0)::bigint AS bytes_in,
       coalesce(sum(f.chats), 0)::bigint AS chats,
       coalesce(sum(f.messages), 0)::bigint AS messages
FROM batch_processing b
LEFT JOIN batch_files f USING (batch_id) LEFT JOIN source_files s USING (source_id)
WHERE b.batch_id = ANY (:batch_ids::text[]);

-- name: loaded_files(batch_ids, limit)
-- What the last store did with the messages of each file, those with new or changed messages first.
SELECT f.batch_id, s.name, f.messages, f.rows_new AS new, f.rows_changed AS changed, f.rows_same AS known
FROM batch_files f JOIN source_files s USING (source_id)
WHERE f.batch_id = ANY (:batch_ids::text[]) AND f.rows_new IS NOT NULL
ORDER BY f.rows_new + f.rows_changed = 0, f.batch_id, f.position LIMIT :limit;

-- name: incomplete_files(batch_ids, limit)
-- Without quarantined files that were dropped: no run reads them.
SELECT f.batch_id, s.name, f.status, f.stage, f.error
FROM batch_files f JOIN source_files s USING (source_id)
WHERE f.batch_id = ANY (:batch_ids::text[]) AND f.status IN ('PARTIAL', 'QUARANTINED')
  AND NOT (f.status = 'QUARANTINED' AND s.dropped_at IS NOT NULL)
ORDER BY f.status DESC, f.batch_id, f.position LIMIT :limit;

-- name: failed_batches(batch_ids)
SELECT batch_id, error_message FROM batch_processing
WHERE batch_id = ANY (:batch_ids::text[]) AND status = 'FAILED' ORDER BY batch_id;

-- name: elapsed(ids)$
SELECT coalesce(extract(epoch FROM max(coalesce(finished_at, clock_timestamp())) - min(queued_at)), 0)::float8
FROM stage_runs WHERE stage_run_id = ANY (:ids::bigint[]);

-- name: source_lines(status, limit)
SELECT s.source_id AS id, f.batch_id, o.status, s.name, s.size_bytes, f.stage, f.error AS reason, r.origin,
       s.received_at, s.returned_at, s.dropped_at, s.purged_at
FROM source_files s LEFT JOIN batch_files f USING (source_id)
CROSS JOIN LATERAL (SELECT file_outcome(f.status, s.returned_at, s.dropped_at) AS status) o
LEFT JOIN LATERAL (SELECT origin FROM receipts WHERE source_id = s.source_id ORDER BY receipt_id LIMIT 1) r ON true
WHERE :status::text IS NULL OR o.status = :status
ORDER BY s.source_id DESC LIMIT :limit;

-- name: duplicates(since, folder, batch_id)
-- Arrivals of content that the ledger had already, in the order received, and the file whose content it is: since a
-- time, from a folder (or the folder itself), of the content of a batch (null: no condition).
SELECT coalesce(u.file_name, regexp_replace(r.origin, '^.*/', '')) AS name, r.origin, r.received_at,
       s.source_id AS same_as_id, s.name AS same_as, f.batch_id,
       file_outcome(f.status, s.returned_at, s.dropped_at) AS status
FROM receipts r JOIN source_files s USING (source_id) LEFT JOIN batch_files f USING (source_id)
LEFT JOIN LATERAL (
    SELECT file_name FROM uploads WHERE source_id = r.source_id
    AND r.origin = 'telegram:' || chat_id || '/' || message_id LIMIT 1
) u ON true
WHERE r.duplicate
  AND (:since::timestamptz IS NULL OR r.received_at >= :since)
  AND (:folder::text IS NULL OR r.origin = :folder OR starts_with(r.origin, rtrim(:folder, '/') || '/'))
  AND (:batch_id::text IS NULL OR f.batch_id = :batch_id)
ORDER BY r.receipt_id;

-- name: left_in_folder(folder)
SELECT folder, name, reason, is_error, noticed_at FROM left_files
WHERE :folder::text IS NULL OR folder = :folder ORDER BY folder, name;

-- name: settling(sightings)
-- Entries of an inbox: whether an earlier run received or left them as they are, and for how long they have been so
-- (null: not watched).
SELECT sighting, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS unchanged_sec,
       EXISTS (SELECT FROM receipts r WHERE r.sighting = s.sighting)
       OR EXISTS (SELECT FROM left_files l WHERE l.sighting = s.sighting) AS is_known
FROM unnest(:sightings::text[]) AS s (sighting) LEFT JOIN seen_files USING (sighting);

-- name: run_progress(flow_run_id)^
-- The batches of a parent run, as far as they ended since it listed them.
SELECT count(*) AS batches,
       count(*) FILTER (WHERE b.status = 'COMPLETED' AND b.completed_at >= l.listed_at) AS completed,
       count(*) FILTER (WHERE b.status = 'FAILED' AND b.completed_at >= l.listed_at) AS failed,
       count(*) FILTER (WHERE b.status IN ('EXTRACTING', 'CONVERTING', 'STORING')) AS working,
       count(*) FILTER (WHERE b.status = 'QUEUED' AND b.held_at IS NOT NULL) AS held,
       coalesce(extract(epoch FROM clock_timestamp() - min(l.listed_at)), 0)::float8 AS elapsed_sec
FROM run_batches l JOIN batch_processing b USING (batch_id) WHERE l.flow_run_id = :flow_run_id::uuid;

-- name: last_listed_run()$
-- The run that has listed batches last; null if there is none.
SELECT flow_run_id FROM run_batches ORDER BY listed_at DESC LIMIT 1;

-- name: bot_overview(space)
SELECT b.bot_id, b.name, b.host, b.pid, b.started_at, b.polled_at, b.stopped_at, b.conflict_at, b.error,
       extract(epoch FROM clock_timestamp() - coalesce(b.polled_at, b.started_at))::float8 AS silent_sec,
       EXISTS (SELECT FROM advisory_locks l WHERE l.granted AND l.space = :space
               AND l.key = (hashtext(b.bot_id::text)::bigint & 4294967295)) AS is_polling,
       (SELECT coalesce(jsonb_object_agg(state, uploads), '{}') FROM (
            SELECT state, count(*) AS uploads FROM uploads u WHERE u.bot_id = b.bot_id GROUP BY state) s) AS uploads,
       (SELECT count(*) FROM announcements a WHERE a.bot_id = b.bot_id AND closed_at IS NULL AND given_up IS NULL)
           AS announcements,
       (SELECT count(*) FROM bot_updates p WHERE p.bot_id = b.bot_id) AS unread_updates
FROM bots b ORDER BY b.bot_id;
