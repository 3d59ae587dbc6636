-- One chat: what `tdp chat` shows.

-- name: chat_head(chat_key)^
SELECT c.chat_key, c.chat_id, c.name, c.type, c.account, c.form,
       coalesce((SELECT array_agg(alias ORDER BY alias) FROM chat_aliases WHERE chat_key = c.chat_key), '{}') AS aliases
FROM chats c WHERE c.chat_key = :chat_key;

-- name: chat_exports(chat_key)
-- The source files with messages of the chat, in the order they were received: the messages whose current
-- version is from this file, earlier texts, the messages that its exports hold (null: not known), and those
-- that are missing since then.
SELECT s.source_id, f.name, f.received_at, b.batch_id, sum(s.messages)::bigint AS messages,
       sum(s.versions)::bigint AS versions, sum(s.held)::bigint AS held, bool_and(s.whole) AS whole,
       sum(s.missing)::bigint AS missing
FROM (
    SELECT source_id, count(*) AS messages, 0 AS versions, NULL::bigint AS held, NULL::boolean AS whole, 0 AS missing
    FROM messages WHERE chat_key = :chat_key GROUP BY source_id
    UNION ALL
    SELECT source_id, 0, count(*), NULL, NULL, 0 FROM edits WHERE chat_key = :chat_key GROUP BY source_id
    UNION ALL
    SELECT source_id, 0, 0, messages, whole, 0 FROM chat_exports
    WHERE ids IS NOT NULL
      AND chat_key IN (SELECT :chat_key UNION ALL SELECT alias FROM chat_aliases WHERE chat_key = :chat_key)
    UNION ALL
    SELECT missing_since, 0, 0, NULL, NULL, count(*) FROM missing_messages WHERE chat_key = :chat_key
    GROUP BY missing_since
) AS s LEFT JOIN source_files f USING (source_id) LEFT JOIN batch_files b USING (source_id)
GROUP BY s.source_id, f.name, f.received_at, b.batch_id ORDER BY s.source_id;

-- name: chat_missing(chat_key, most)
-- The latest messages that are missing, and the source file of the first export without them.
SELECT m.message_id, m.sent_at, m.sender_name, m.text, x.missing_since, f.name AS export
FROM missing_messages x JOIN messages m USING (chat_key, message_id)
LEFT JOIN source_files f ON f.source_id = x.missing_since
WHERE x.chat_key = :chat_key ORDER BY m.message_id DESC LIMIT :most;

-- name: chat_missing_count(chat_key)$
SELECT count(*) FROM missing_messages WHERE chat_key = :chat_key;

-- name: chat_edits(chat_key, most)
-- The messages whose text was edited, latest edits first, with all their earlier texts in order, each text once.
SELECT m.message_id, m.sent_at, m.sender_name, m.edited_at, m.text, e.earlier
FROM (
    SELECT message_id, array_agg(text ORDER BY revision) AS earlier FROM (
        SELECT message_id, text, min(revision) AS revision FROM edits
        WHERE chat_key = :chat_key GROUP BY message_id, text
    ) AS t GROUP BY message_id
) AS e JOIN messages m ON m.chat_key = :chat_key AND m.message_id = e.message_id
ORDER BY m.revision DESC, m.message_id LIMIT :most;

-- name: chat_edit_count(chat_key)$
SELECT count(DISTINCT message_id) FROM edits WHERE chat_key = :chat_key;
