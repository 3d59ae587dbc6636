-- The Prefect server of the ledger: its record, and the lock that it holds while it runs.

-- name: recorded_server()^
SELECT identity::text AS identity, home, host, url FROM prefect_server;

-- name: record_server(identity, home, host, url)!
INSERT INTO prefect_server (identity, home, host, url) VALUES (:identity::uuid, :home, :host, :url)
ON CONFLICT (is_only) DO UPDATE
SET identity = excluded.identity, home = excluded.home, host = excluded.host, url = excluded.url,
    recorded_at = clock_timestamp();

-- name: lock_server(space)$
SELECT pg_try_advisory_lock(:space::int, 0);

-- name: server_lock_holder(space)$
-- The name of the session that holds the lock; none if it has just been released.
SELECT a.application_name FROM advisory_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.granted AND l.space = :space::bigint AND l.key = 0;
