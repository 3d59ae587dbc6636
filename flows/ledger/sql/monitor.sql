-- What the monitor asks at every look. Counts are of all time, so a restart changes no counter.

-- name: lane_health()
-- Waits and runs of now; the average is of the runs completed within the last hour.
SELECT s.stage, s.exclusive, q.waiting, q.running, q.oldest_wait_sec, q.longest_run_sec, d.average_sec,
       CASE WHEN q.running = 0 THEN least(q.oldest_wait_sec, coalesce(d.since_last_sec, 'infinity')) ELSE 0 END
           AS idle_beside_queue_sec
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
    FROM stage_runs WHERE stage = s.stage AND finished_at > clock_timestamp() - interval '1 hour'
) d
ORDER BY s.position;

-- name: schema_version()$
SELECT version_num FROM tdp_schema_version;

-- name: error_rate()$
-- Share of the stage runs ended within the last hour that failed, timed out or were lost.
SELECT coalesce(avg((outcome <> 'COMPLETED')::int), 0)::float8 FROM stage_runs
WHERE finished_at > clock_timestamp() - interval '1 hour' AND outcome <> 'CANCELLED';

-- name: overlap_count()$
SELECT count(*) FROM stage_overlaps;

-- name: stage_outcomes()
SELECT stage, outcome, count(*) AS runs, count(*) FILTER (WHERE starts_with(error, 'GateLost')) AS lease_losses
FROM stage_runs WHERE outcome IS NOT NULL GROUP BY stage, outcome;

-- name: messages_stored()$
SELECT coalesce(sum(messages), 0)::bigint FROM batch_files WHERE status IN ('STORED', 'PARTIAL');

-- name: wait_buckets(bounds)
SELECT stage, width_bucket(wait_sec, :bounds::float8[]) AS bucket, count(*) AS runs, sum(wait_sec) AS seconds
FROM stage_timings WHERE started_at IS NOT NULL GROUP BY stage, bucket;

-- name: duration_buckets(bounds)
SELECT stage, width_bucket(duration_sec, :bounds::float8[]) AS bucket, count(*) AS runs, sum(duration_sec) AS seconds
FROM stage_timings WHERE outcome = 'COMPLETED' GROUP BY stage, bucket;
