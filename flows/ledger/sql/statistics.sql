-- Statistics of the messages of some chats (null: all), within two times (null: no limit).

-- name: totals(chats, since, until)^
SELECT count(*) FILTER (WHERE type <> 'service') AS messages, count(*) FILTER (WHERE type = 'service') AS service,
       count(DISTINCT chat_key) AS chats, count(*) FILTER (WHERE edited_at IS NOT NULL) AS edited,
       min(sent_at) AS first_sent_at, max(sent_at) AS last_sent_at
FROM messages
WHERE (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until);

-- name: undated(chats)$
-- Messages without a certain instant: two times select none of them.
SELECT count(*) FROM messages
WHERE type <> 'service' AND sent_at IS NULL AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]));

-- name: per_day(chats, since, until, by_wall_clock)
-- Days without a message are left out. growth: all messages until the end of the day.
SELECT day, messages, sum(messages) OVER (ORDER BY day)::bigint AS growth FROM (
    SELECT (CASE WHEN :by_wall_clock THEN sent_local ELSE sent_at AT TIME ZONE 'UTC' END)::date AS day,
           count(*) AS messages FROM messages
    WHERE type <> 'service'
      AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until)
    GROUP BY day
) AS days WHERE day IS NOT NULL ORDER BY day;

-- name: per_hour(chats, since, until, by_wall_clock)
SELECT extract(isodow FROM moment)::int AS weekday, extract(hour FROM moment)::int AS hour, count(*) AS messages
FROM messages
CROSS JOIN LATERAL (
    SELECT CASE WHEN :by_wall_clock THEN sent_local ELSE sent_at AT TIME ZONE 'UTC' END AS moment) AS sent
WHERE type <> 'service' AND moment IS NOT NULL
  AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until)
GROUP BY weekday, hour ORDER BY weekday, hour;

-- name: by_sender(chats, since, until, most)
-- all_senders: their number, of whom :most are returned.
SELECT max(sender_name) AS name, sender_id, count(*) AS messages, count(*) OVER () AS all_senders FROM messages
WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
  AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until)
GROUP BY sender_id, CASE WHEN sender_id IS NULL THEN sender_name END
ORDER BY messages DESC, sender_id, name LIMIT :most;

-- name: by_media(chats)
-- size_bytes: null if the exports have no size of any of them.
SELECT kind, sum(messages)::bigint AS messages, nullif(sum(size_bytes), 0)::bigint AS size_bytes FROM media_kinds
WHERE :chats::text[] IS NULL OR chat_key = ANY (:chats::text[]) GROUP BY kind ORDER BY messages DESC, kind;
