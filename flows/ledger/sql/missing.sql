-- Messages that are missing in later exports: flows/stages/store/missing.py runs these in the transaction of a load.

-- name: delete_exports(sources)!
DELETE FROM chat_exports WHERE source_id = ANY(:sources::bigint[]);

-- name: add_exports(exports, ids)!
INSERT INTO chat_exports
SELECT e.chat_key, e.source_id, e.position, e.form, e.messages, i.ids, e.whole, e.topics, e.first_id, e.last_id,
       e.first_at, e.last_at, e.first_local, e.last_local, e.latest
FROM ROWS FROM (
    jsonb_to_recordset(:exports::jsonb) AS (
        chat_key text COLLATE "C", source_id bigint, position integer, form text, messages bigint, whole boolean,
        topics bigint, first_id bigint, last_id bigint, first_at timestamptz, last_at timestamptz,
        first_local timestamp, last_local timestamp, latest bigint)
) WITH ORDINALITY AS e (chat_key, source_id, position, form, messages, whole, topics, first_id, last_id, first_at,
    last_at, first_local, last_local, latest, place)
JOIN unnest(:ids::bytea[]) WITH ORDINALITY AS i (ids, place) USING (place);

-- name: members_of(chat_keys)$
-- The given chats and all chats that are joined with them.
SELECT coalesce(array_agg(chat_key), '{}') FROM (
    SELECT unnest(:chat_keys::text[]) COLLATE "C" AS chat_key
    UNION SELECT chat_key FROM chat_aliases WHERE alias = ANY(:chat_keys::text[])
    UNION SELECT a.alias FROM chat_aliases a WHERE chat_key = ANY(:chat_keys::text[])
       OR chat_key IN (SELECT b.chat_key FROM chat_aliases b WHERE b.alias = ANY(:chat_keys::text[]))
) AS members;

-- name: exports_of(chat_keys)
-- The exports of these chats, in the order in which they were made as far as that is known, under the chat that
-- each is joined with; only of chats in which something can be proved.
SELECT * FROM (
    SELECT coalesce(a.chat_key, e.chat_key) AS chat, e.chat_key, e.source_id, e.position, e.form = 'html' AS is_html,
           e.messages, e.whole, e.topics, e.first_id, e.last_id, extract(epoch FROM e.first_at)::float8 AS first_at,
           extract(epoch FROM e.last_at)::float8 AS last_at,
           extract(epoch FROM e.first_local)::float8 AS first_local,
           extract(epoch FROM e.last_local)::float8 AS last_local, e.latest,
           count(*) OVER same AS exports, bool_or(e.whole) OVER same AS any_whole,
           bool_and(e.ids IS NOT NULL) OVER same AS all_known
    FROM chat_exports e LEFT JOIN chat_aliases a ON a.alias = e.chat_key
    WHERE e.chat_key = ANY(:chat_keys::text[])
    WINDOW same AS (PARTITION BY coalesce(a.chat_key, e.chat_key))
) AS e
WHERE exports > 1 AND any_whole AND all_known
ORDER BY chat, latest, source_id, position;

-- name: ids_of(chat_key, source_id, position)$
SELECT ids FROM chat_exports WHERE chat_key = :chat_key AND source_id = :source_id AND position = :position;

-- name: times_of(chat_key, message_ids)
SELECT message_id, type = 'message' AS is_message, extract(epoch FROM sent_at)::float8 AS sent_at,
       extract(epoch FROM sent_local)::float8 AS sent_local
FROM messages WHERE chat_key = :chat_key AND message_id = ANY(:message_ids::bigint[]);

-- name: delete_marks(chat_keys, chats, message_ids, sources)!
-- The marks of these chats but for the given ones.
DELETE FROM missing_messages x
WHERE chat_key = ANY(:chat_keys::text[]) AND NOT EXISTS (
    SELECT FROM unnest(:chats::text[], :message_ids::bigint[], :sources::bigint[]) AS m (chat, message_id, source_id)
    WHERE m.chat = x.chat_key AND m.message_id = x.message_id AND m.source_id = x.missing_since);

-- name: add_marks(chats, message_ids, sources)!
INSERT INTO missing_messages (chat_key, message_id, missing_since)
SELECT * FROM unnest(:chats::text[], :message_ids::bigint[], :sources::bigint[]) ON CONFLICT DO NOTHING;
