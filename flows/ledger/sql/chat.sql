-- One chat: what `tdp chat` shows.

-- name: chat_head(chat_key)^
SELECT c.chat_key, c.chat_id, c.name, c.type, c.account, c.form,
       coalesce((SELECT array_agg(alias ORDER BY alias) FROM chat_aliases WHERE chat_key = c.chat_key), '{}') AS aliases
FROM chats c WHERE c.chat_key = :chat_key;

-- name: chat_exports(chat_key)
-- The source files that brought messages as they are now, or an earlier text of one; in the order they were received.
SELECT s.source_id, f.name, f.received_at, b.batch_id, sum(s.messages)::bigint AS messages,
       sum(s.versions)::bigint AS versions
FROM (
    SELECT source_id, count(*) AS messages, 0 AS versions FROM messages WHERE chat_key = :chat_key GROUP BY source_id
    UNION ALL
    SELECT source_id, 0, count(*) FROM edits WHERE chat_key = :chat_key GROUP BY source_id
) AS s LEFT JOIN source_files f USING (source_id) LEFT JOIN batch_files b USING (source_id)
GROUP BY s.source_id, f.name, f.received_at, b.batch_id ORDER BY s.source_id;

-- name: chat_edits(chat_key, most)
-- The messages whose text was edited, latest edits first, with all their earlier texts in order.
SELECT m.message_id, m.sent_at, m.sender_name, m.edited_at, m.text, e.earlier
FROM (
    SELECT message_id, array_agg(text ORDER BY revision) AS earlier FROM edits
    WHERE chat_key = :chat_key GROUP BY message_id
) AS e JOIN messages m ON m.chat_key = :chat_key AND m.message_id = e.message_id
ORDER BY m.revision DESC, m.message_id LIMIT :most;

-- name: chat_edit_count(chat_key)$
SELECT count(DISTINCT message_id) FROM edits WHERE chat_key = :chat_key;
