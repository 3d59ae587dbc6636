-- Statistics of the messages of some chats (null: all), within two times (null: no limit). Without a certain instant
-- the wall clock decides, as in exports and searches.

-- name: totals(chats, since, until)^
-- undated: messages without a certain instant.
SELECT count(*) FILTER (WHERE type <> 'service') AS messages, count(*) FILTER (WHERE type = 'service') AS service,
       count(DISTINCT chat_key) AS chats, count(*) FILTER (WHERE edited_at IS NOT NULL) AS edited,
       count(*) FILTER (WHERE type <> 'service' AND sent_at IS NULL) AS undated,
       min(sent_at) AS first_sent_at, max(sent_at) AS last_sent_at
FROM messages
WHERE (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since
       OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
  AND (:until::timestamptz IS NULL OR sent_at < :until
       OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'));

-- name: per_day(chats, since, until, by_wall_clock)
-- Days without a message are left out. growth: all messages until the end of the day.
SELECT day, messages, sum(messages) OVER (ORDER BY day)::bigint AS growth FROM (
    SELECT (CASE WHEN :by_wall_clock THEN sent_local ELSE sent_at AT TIME ZONE 'UTC' END)::date AS day,
           count(*) AS messages FROM messages
    WHERE type <> 'service'
      AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR sent_at >= :since
           OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
      AND (:until::timestamptz IS NULL OR sent_at < :until
           OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'))
    GROUP BY day
) AS days WHERE day IS NOT NULL ORDER BY day;

-- name: per_hour(chats, since, until, by_wall_clock)
SELECT extract(isodow FROM moment)::int AS weekday, extract(hour FROM moment)::int AS hour, count(*) AS messages
FROM messages
CROSS JOIN LATERAL (
    SELECT CASE WHEN :by_wall_clock THEN sent_local ELSE sent_at AT TIME ZONE 'UTC' END AS moment) AS sent
WHERE type <> 'service' AND moment IS NOT NULL
  AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since
       OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
  AND (:until::timestamptz IS NULL OR sent_at < :until
       OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'))
GROUP BY weekday, hour ORDER BY weekday, hour;

-- name: by_sender(chats, since, until, most)
-- The name is that of the latest message. all_senders: their number, of whom :most are returned.
SELECT (array_agg(name ORDER BY name IS NULL, latest DESC NULLS LAST, name))[1] AS name, sender_id,
       sum(messages)::bigint AS messages, count(*) OVER () AS all_senders
FROM (
    SELECT sender_id, sender_name AS name, count(*) AS messages,
           max(coalesce(sent_at, sent_local AT TIME ZONE 'UTC')) AS latest FROM messages
    WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
      AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR sent_at >= :since
           OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
      AND (:until::timestamptz IS NULL OR sent_at < :until
           OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'))
    GROUP BY sender_id, sender_name
) AS named
GROUP BY sender_id, CASE WHEN sender_id IS NULL THEN name END
ORDER BY messages DESC, sender_id, name LIMIT :most;

-- name: by_media(chats, since, until)
-- The kinds are those of the view media_kinds, which has no times. size_bytes: null if the exports have no size of
-- any of them.
SELECT media_kind(media) AS kind, count(*) AS messages,
       nullif(sum(whole_number(coalesce(media ->> 'photo_file_size', media ->> 'file_size'))), 0)::bigint AS size_bytes
FROM messages
WHERE media IS NOT NULL AND type <> 'service'
  AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR sent_at >= :since
       OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
  AND (:until::timestamptz IS NULL OR sent_at < :until
       OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'))
GROUP BY kind ORDER BY messages DESC, kind;
