-- A condition on chat_key reads only the messages of those chats.
CREATE VIEW messages_per_day AS
SELECT chat_key, date_trunc('day', sent_at, 'UTC') AS day, count(*) AS messages,
       count(*) FILTER (WHERE edited_at IS NOT NULL) AS edited, count(*) FILTER (WHERE media IS NOT NULL) AS with_media,
       count(*) FILTER (WHERE forward IS NOT NULL) AS forwarded
FROM messages WHERE type <> 'service' AND sent_at IS NOT NULL
GROUP BY chat_key, date_trunc('day', sent_at, 'UTC');
COMMENT ON VIEW messages_per_day IS
    'Messages per chat and day (UTC), without service messages and those whose instant is not certain.';

CREATE VIEW messages_per_hour AS
SELECT chat_key, extract(isodow FROM sent_at AT TIME ZONE 'UTC')::int AS weekday,
       extract(hour FROM sent_at AT TIME ZONE 'UTC')::int AS hour, count(*) AS messages
FROM messages WHERE type <> 'service' AND sent_at IS NOT NULL
GROUP BY chat_key, extract(isodow FROM sent_at AT TIME ZONE 'UTC'), extract(hour FROM sent_at AT TIME ZONE 'UTC');
COMMENT ON VIEW messages_per_hour IS
    'Messages per chat, day of the week (1: Monday) and hour (UTC), without service messages.';

CREATE VIEW senders AS
SELECT chat_key, sender_id, max(sender_name) AS sender_name, count(*) AS messages, min(sent_at) AS first_sent_at,
       max(sent_at) AS last_sent_at
FROM messages WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
GROUP BY chat_key, sender_id, CASE WHEN sender_id IS NULL THEN sender_name END;
COMMENT ON VIEW senders IS
    'Who wrote in a chat and how much, without service messages. sender_id is null where only the name is known.';

CREATE VIEW media_kinds AS
SELECT chat_key, kind, count(*) AS messages, coalesce(sum(size_bytes), 0)::bigint AS size_bytes
FROM messages CROSS JOIN LATERAL (
    SELECT CASE WHEN media ->> 'photo' IS NOT NULL THEN 'photo'
                WHEN media ->> 'media_type' IS NOT NULL THEN media ->> 'media_type'
                WHEN media ->> 'file' IS NOT NULL THEN 'file'
                WHEN media ? 'poll' THEN 'poll'
                WHEN media ? 'location_information' THEN 'location'
                WHEN media ? 'contact_information' THEN 'contact'
                ELSE 'other' END AS kind,
           whole_number(coalesce(media ->> 'photo_file_size', media ->> 'file_size')) AS size_bytes
) AS one
WHERE media IS NOT NULL AND type <> 'service'
GROUP BY chat_key, kind;
COMMENT ON VIEW media_kinds IS
    'Messages with media per chat and kind (photo, file, sticker, video_file, voice_message, poll, location, contact, '
    '…), and the size of their files as far as the export has it.';
