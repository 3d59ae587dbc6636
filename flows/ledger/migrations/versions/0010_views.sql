-- The JSON columns hold what the exports have, also values of other types than Telegram Desktop writes: these are
-- null here, and cause no error.
CREATE FUNCTION whole_number(value text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value ~ '^-?[0-9]{1,18}$' THEN value::bigint END;

-- Few messages of few chats: without it the views of topics would read every message.
CREATE INDEX messages_topics ON messages (chat_key, message_id) WHERE action = 'topic_created';

CREATE VIEW message_topics AS
WITH RECURSIVE created AS (
    SELECT chat_key, message_id FROM messages WHERE action = 'topic_created'
), replies AS MATERIALIZED (
    SELECT chat_key, message_id, reply_to_message_id FROM messages
    WHERE chat_key IN (SELECT chat_key FROM created)
      AND reply_to_message_id IS NOT NULL AND reply_to_peer_id IS NULL
), topical AS (
    SELECT chat_key, message_id, message_id AS topic_id FROM created
    UNION
    SELECT r.chat_key, r.message_id, t.topic_id
    FROM topical t JOIN replies r ON r.chat_key = t.chat_key AND r.reply_to_message_id = t.message_id
)
SELECT chat_key, message_id, topic_id FROM topical;
COMMENT ON VIEW message_topics IS
    'The topic of each message that replies to the message that created a topic, directly or through other replies. '
    'Not known: messages of the topic General, and replies to messages that the export does not have.';

CREATE VIEW topics AS
SELECT m.chat_key, m.message_id AS topic_id, coalesce(m.service ->> 'title', m.media ->> 'title') AS title,
       m.sent_at AS created_at, m.sender_id AS creator_id, m.sender_name AS creator_name,
       coalesce(t.messages, 0) AS messages, t.last_message_id
FROM messages m LEFT JOIN (
    SELECT chat_key, topic_id, count(*) - 1 AS messages, max(message_id) AS last_message_id
    FROM message_topics GROUP BY chat_key, topic_id
) t ON t.chat_key = m.chat_key AND t.topic_id = m.message_id
WHERE m.action = 'topic_created';
COMMENT ON VIEW topics IS
    'One row per topic: its title when it was created, and the number of its messages as far as known '
    '(message_topics). Later titles are not known: an export does not say which topic was renamed.';

CREATE VIEW reactions AS
SELECT m.chat_key, m.message_id, m.sent_at, m.sender_id, r.value ->> 'type' AS type,
       coalesce(r.value ->> 'emoji', r.value ->> 'document_id') AS reaction,
       whole_number(r.value ->> 'count') AS count, r.value -> 'recent' AS recent
FROM messages m CROSS JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(m.reactions) WHEN 'array' THEN m.reactions END) AS r (value);
COMMENT ON VIEW reactions IS
    'One row per message and kind of reaction. type: emoji, custom_emoji or paid; reaction: the emoji, or the path of '
    'a custom one; recent: json, who reacted last (from, from_id, date).';

CREATE VIEW forwards AS
SELECT chat_key, message_id, sent_at, sender_id, sender_name, forward ->> 'forwarded_from' AS from_name,
       forward ->> 'forwarded_from_id' AS from_id, forward ->> 'saved_from' AS saved_from,
       to_timestamp(whole_number(forward ->> 'forwarded_date_unixtime')) AS first_sent_at
FROM messages WHERE forward IS NOT NULL;
COMMENT ON VIEW forwards IS
    'One row per forwarded message: from whom (from_name is null if the account was deleted), from which chat it was '
    'saved, and when it was sent first, as far as the export has it.';

CREATE VIEW polls AS
SELECT m.chat_key, m.message_id, m.sent_at, m.sender_id, m.media -> 'poll' ->> 'question' AS question,
       m.media -> 'poll' ->> 'closed' = 'true' AS closed,
       whole_number(m.media -> 'poll' ->> 'total_voters') AS total_voters, a.position, a.value ->> 'text' AS answer,
       whole_number(a.value ->> 'voters') AS voters, a.value ->> 'chosen' = 'true' AS chosen
FROM messages m LEFT JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(m.media -> 'poll' -> 'answers') WHEN 'array' THEN m.media -> 'poll' -> 'answers' END
) WITH ORDINALITY AS a (value, position) ON true
WHERE m.media ? 'poll';
COMMENT ON VIEW polls IS
    'One row per answer of a poll, in order of position. chosen: by the exporting account.';

CREATE VIEW files AS
SELECT chat_key, message_id, sent_at, sender_id,
       CASE WHEN media ->> 'photo' IS NOT NULL THEN 'photo' ELSE coalesce(media ->> 'media_type', 'file') END AS kind,
       coalesce(media ->> 'photo', media ->> 'file') AS path,
       NOT starts_with(coalesce(media ->> 'photo', media ->> 'file'), '(File ') AS included,
       media ->> 'file_name' AS file_name,
       whole_number(coalesce(media ->> 'photo_file_size', media ->> 'file_size')) AS size_bytes,
       media ->> 'mime_type' AS mime_type, whole_number(media ->> 'width') AS width,
       whole_number(media ->> 'height') AS height, whole_number(media ->> 'duration_seconds') AS duration_sec,
       media ->> 'thumbnail' AS thumbnail
FROM messages WHERE coalesce(media ->> 'photo', media ->> 'file') IS NOT NULL;
COMMENT ON VIEW files IS
    'One row per photo or file of a message. kind: photo, file, sticker, video_file, voice_message, …; path: in the '
    'export; included: whether the export has the file itself.';
