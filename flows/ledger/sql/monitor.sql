-- Queries of the monitor. Counters cover all stage runs ever, so a restart of the monitor does not reset them.
-- To use an index, compare with statement_timestamp(): clock_timestamp() is volatile, which rules indexes out.

-- name: lane_health()
-- Current waits and runs; the average is over the runs completed within the last hour.
SELECT s.stage, s.exclusive, q.waiting, q.running, q.oldest_wait_sec, q.longest_run_sec, d.average_sec,
       CASE WHEN q.running = 0 THEN least(q.oldest_wait_sec, coalesce(d.since_last_sec, 'infinity')) ELSE 0 END
           AS idle_gap_sec
FROM stages s
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE started_at IS NULL) AS waiting,
           count(*) FILTER (WHERE started_at IS NOT NULL) AS running,
           coalesce(extract(epoch FROM clock_timestamp() - min(queued_at) FILTER (WHERE started_at IS NULL)), 0)::float8
               AS oldest_wait_sec,
           coalesce(extract(epoch FROM clock_timestamp() - min(started_at)), 0)::float8 AS longest_run_sec
    FROM stage_runs WHERE stage = s.stage AND finished_at IS NULL
) q
CROSS JOIN LATERAL (
    SELECT avg(extract(epoch FROM finished_at - started_at)) FILTER (WHERE outcome = 'COMPLETED')::float8 AS average_sec,
           extract(epoch FROM clock_timestamp() - max(finished_at))::float8 AS since_last_sec
    FROM stage_runs WHERE stage = s.stage AND finished_at > statement_timestamp() - interval '1 hour'
) d
ORDER BY s.position;

-- name: intake_standstill(space)$
-- Seconds since a run that holds the intake lock has acquired it or received a file; null if no run holds it.
SELECT extract(epoch FROM clock_timestamp() - moved_at)::float8 FROM intake
WHERE EXISTS (SELECT FROM advisory_locks WHERE granted AND space = :space);

-- name: undecided()^
-- Failed batches, and quarantined files that wait for a decision of an operator.
SELECT (SELECT count(*) FROM batch_processing WHERE status = 'FAILED') AS failed,
       (SELECT count(*) FROM batch_files JOIN source_files USING (source_id)
        WHERE status = 'QUARANTINED' AND returned_at IS NULL AND dropped_at IS NULL) AS quarantined;

-- name: runs_without_open_batches(flow_run_ids)$
-- Of these parent runs those that have listed batches, and whose batches are all completed now.
SELECT coalesce(array_agg(flow_run_id::text), '{}') FROM (
    SELECT r.flow_run_id FROM run_batches r JOIN batch_processing b USING (batch_id)
    WHERE r.flow_run_id = ANY (:flow_run_ids::uuid[])
    GROUP BY r.flow_run_id HAVING bool_and(status = 'COMPLETED')
) AS done;

-- name: schema_version()$
SELECT version_num FROM tdp_schema_version;

-- name: error_rate()$
-- Share of the stage runs ended within the last hour that failed, timed out or were lost.
SELECT coalesce(avg((outcome <> 'COMPLETED')::int), 0)::float8 FROM stage_runs
WHERE finished_at > statement_timestamp() - interval '1 hour' AND outcome <> 'CANCELLED';

-- name: settled()^
-- All runs up to the id ``upto`` have ended, and all runs that started before ``before``. The last minute is
-- excluded, because its transactions may not be committed yet.
WITH unsettled AS MATERIALIZED (
    SELECT stage_run_id, started_at FROM stage_runs WHERE finished_at IS NULL
    UNION ALL
    SELECT stage_run_id, started_at FROM stage_runs WHERE finished_at > statement_timestamp() - interval '1 minute'
)
SELECT coalesce((SELECT min(stage_run_id) - 1 FROM unsettled), (SELECT max(stage_run_id) FROM stage_runs), 0) AS upto,
       least((SELECT min(started_at) FROM unsettled), statement_timestamp() - interval '1 minute') AS before;

-- name: run_counts(after, upto, bounds)
-- Waits are those of started runs, durations those of completed runs. A bucket is the number of bounds reached.
SELECT stage, outcome, starts_with(error, 'GateLost') IS TRUE AS lease_lost,
       width_bucket(CASE WHEN started_at IS NOT NULL THEN wait_sec END, :bounds::float8[]) AS wait_bucket,
       width_bucket(CASE WHEN outcome = 'COMPLETED' THEN duration_sec END, :bounds::float8[]) AS duration_bucket,
       count(*) AS runs, sum(wait_sec) AS wait_sec, sum(duration_sec) AS duration_sec
FROM (SELECT *, extract(epoch FROM started_at - queued_at)::float8 AS wait_sec,
             extract(epoch FROM finished_at - started_at)::float8 AS duration_sec FROM stage_runs
      WHERE stage_run_id > :after AND stage_run_id <= coalesce(:upto, 9223372036854775807)) runs
GROUP BY stage, outcome, lease_lost, wait_bucket, duration_bucket;

-- name: overlap_counts(since, before, stages, ends)
-- As stage_overlaps, for runs started in [since, before); all earlier runs of stages[i] had ended by ends[i].
SELECT stage, count(*) FILTER (WHERE started_at < earlier_finished_at) AS overlaps, max(finished_at) AS ended
FROM (
    SELECT r.stage, r.started_at, r.finished_at, greatest(past.ended, max(coalesce(r.finished_at, 'infinity')) OVER (
               PARTITION BY r.stage ORDER BY r.started_at, r.stage_run_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS earlier_finished_at
    FROM stages s JOIN stage_runs r ON r.stage = s.stage
    LEFT JOIN unnest(:stages::text[], :ends::timestamptz[]) AS past (stage, ended) ON past.stage = s.stage
    WHERE s.exclusive AND r.started_at >= coalesce(:since::timestamptz, '-infinity')
      AND r.started_at < coalesce(:before::timestamptz, 'infinity')
) ordered
GROUP BY stage;

-- name: messages_stored()$
SELECT coalesce(sum(messages), 0)::bigint FROM batch_files WHERE status IN ('STORED', 'PARTIAL');

-- name: bot_health()
-- Bots that were not stopped on purpose. A conflict counts for two minutes, because two pollers succeed in
-- turns.
SELECT name, error, extract(epoch FROM clock_timestamp() - coalesce(polled_at, started_at))::float8 AS silent_sec,
       coalesce(conflict_at > clock_timestamp() - interval '2 minutes', false) AS is_conflict
FROM bots WHERE stopped_at IS NULL ORDER BY bot_id;

-- name: upload_health()^
-- Uploads and final messages that have waited for longer than half an hour, and the updates of a day that could
-- not be read.
SELECT (SELECT count(*) FROM uploads WHERE state IN ('SEEN', 'WAITING_SPACE')
        AND seen_at < clock_timestamp() - interval '30 minutes') AS stuck,
       (SELECT coalesce(reason, 'its download has not ended') FROM uploads WHERE state IN ('SEEN', 'WAITING_SPACE')
        AND seen_at < clock_timestamp() - interval '30 minutes' ORDER BY upload_id LIMIT 1) AS reason,
       (SELECT count(*) FROM announcement_messages m JOIN announcements a USING (announcement_id)
        WHERE m.sent_at IS NULL AND a.given_up IS NULL
          AND m.sending_at < clock_timestamp() - interval '30 minutes') AS unsent,
       (SELECT count(*) FROM bot_updates WHERE received_at > clock_timestamp() - interval '1 day') AS unread;

-- name: upload_counts()
SELECT state, count(*) AS uploads FROM uploads GROUP BY state;

-- name: announcements_waiting()$
SELECT count(*) FROM announcements WHERE closed_at IS NULL AND given_up IS NULL;

-- name: is_inbox_watched(application, seconds)$
-- Whether a session of that name sent a query in the last ``seconds``: each check of the inbox sends some.
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = :application
      AND query_start > clock_timestamp() - :seconds * interval '1 second'
) AS is_watched;
