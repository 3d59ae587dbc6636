-- Statistics of the messages of some chats (null: all), within two times (null: no limit).

-- name: totals(chats, since, until)^
SELECT count(*) FILTER (WHERE type <> 'service') AS messages, count(*) FILTER (WHERE type = 'service') AS service,
       count(DISTINCT chat_key) AS chats, count(*) FILTER (WHERE edited_at IS NOT NULL) AS edited,
       count(*) FILTER (WHERE sent_at IS NULL) AS undated, min(sent_at) AS first_sent_at, max(sent_at) AS last_sent_at
FROM messages
WHERE (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until);

-- name: per_day(chats, since, until)
-- Days without a message are left out. growth: all messages until the end of the day.
SELECT day, messages, sum(messages) OVER (ORDER BY day)::bigint AS growth FROM (
    SELECT (sent_at AT TIME ZONE 'UTC')::date AS day, count(*) AS messages FROM messages
    WHERE type <> 'service' AND sent_at IS NOT NULL
      AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR sent_at >= :since) AND (:until::timestamptz IS NULL OR sent_at < :until)
    GROUP BY day
) AS days ORDER BY day;

-- name: per_hour(chats, since, until)
SELECT extract(isodow FROM sent_at AT TIME ZONE 'UTC')::int AS weekday,
       extract(hour FROM sent_at AT TIME ZONE 'UTC')::int AS hour, count(*) AS messages
FROM messages
WHERE type <> 'service' AND sent_at IS NOT NULL
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
SELECT kind, sum(messages)::bigint AS messages, sum(size_bytes)::bigint AS size_bytes FROM media_kinds
WHERE :chats::text[] IS NULL OR chat_key = ANY (:chats::text[]) GROUP BY kind ORDER BY messages DESC, kind;
