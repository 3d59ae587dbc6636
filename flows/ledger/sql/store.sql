-- Load Parquet rows into chats and messages: flows/stages/store/loading.py runs these in one transaction.

-- name: stored_before(sources)$
-- The source files of the batch, if an earlier store of the batch may have loaded rows from them.
SELECT coalesce(array_agg(source_id ORDER BY source_id), '{}') FROM batch_files f
WHERE batch_id IN (SELECT batch_id FROM batch_files WHERE source_id = ANY(:sources::bigint[]))
  AND EXISTS (SELECT FROM stage_runs r WHERE r.batch_id = f.batch_id AND r.stage = 'store'
              AND r.started_at IS NOT NULL AND r.finished_at IS NOT NULL);

-- name: chats_of_sources(sources)
-- All chats that have rows from these sources, once per clue; clue is null for a chat without clues.
SELECT brought.chat_key, clue, rank FROM (
    SELECT coalesce(joined_from, chat_key) AS chat_key FROM messages WHERE source_id = ANY(:sources)
    UNION SELECT chat_key FROM joined_messages WHERE source_id = ANY(:sources)
    UNION SELECT chat_key FROM chats WHERE source_id = ANY(:sources)
    UNION SELECT chat_key FROM joined_chats WHERE source_id = ANY(:sources)
) brought LEFT JOIN chat_clues USING (chat_key);

-- name: lock_chats(chat_keys)!
SELECT FROM chats WHERE chat_key = ANY(:chat_keys) ORDER BY chat_key FOR UPDATE;

-- name: delete_of_sources(sources)!
DELETE FROM messages WHERE source_id = ANY(:sources);

-- name: delete_versions(sources)!
DELETE FROM message_versions WHERE source_id = ANY(:sources);

-- name: stale_sources()$
-- Sources that a running backfill has not stored again yet.
SELECT coalesce(array_agg(f.source_id), '{}') FROM living_backfills l JOIN batch_files f USING (batch_id)
WHERE NOT EXISTS (SELECT FROM stage_runs s WHERE s.batch_id = l.batch_id AND s.stage = 'store'
                  AND s.outcome = 'COMPLETED' AND s.queued_at >= l.listed_at);

-- name: drop_chats(chat_keys)!
-- Deletes those of the chats that have no messages left.
WITH gone AS (
    DELETE FROM chats c
    WHERE chat_key = ANY(:chat_keys) AND NOT EXISTS (SELECT FROM messages m WHERE m.chat_key = c.chat_key)
    RETURNING chat_key
)
DELETE FROM chat_clues USING gone WHERE chat_clues.chat_key = gone.chat_key;

-- name: mark_unsearched(sources)!
-- The search index may have an older state of the messages of these sources.
INSERT INTO search_pending SELECT unnest(:sources::bigint[]);

-- name: upsert_chats(chats, earlier)
-- Also locks the chats, in the order of their keys, until the end of the transaction: loads of one chat wait
-- for each other.
INSERT INTO chats AS c
SELECT DISTINCT ON (chat_key) chat_key, chat_id, type, name, account, form, extra, revision, source_id
FROM jsonb_to_recordset(:chats::jsonb) AS given (
    chat_key text COLLATE "C", chat_id bigint, type text, name text, account text, form text, extra jsonb,
    revision text COLLATE "C", source_id bigint)
ORDER BY chat_key, revision DESC
ON CONFLICT (chat_key) DO UPDATE
SET (chat_id, type, name, account, form, extra, revision, source_id) = ROW (
    excluded.chat_id, excluded.type, excluded.name, excluded.account, excluded.form, excluded.extra,
    excluded.revision, excluded.source_id)
WHERE excluded.revision > c.revision OR c.source_id = ANY(:earlier::bigint[])
RETURNING chat_key, xmax = 0 AS fresh;

-- name: add_clues(chat_keys, clues, ranks)!
INSERT INTO chat_clues (chat_key, clue, rank)
SELECT DISTINCT * FROM unnest(:chat_keys::text[], :clues::text[], :ranks::smallint[])
ON CONFLICT DO NOTHING;

-- name: copy_fresh#
COPY messages (
    chat_key, message_id, type, sent_at, sent_local, edited_at, edited_local, sender_id, sender_name, action, text,
    entities, media, reactions, reply_to_message_id, reply_to_peer_id, forward, service, extra, revision, source_id
) FROM STDIN (FORMAT binary);

-- name: create_loaded#
CREATE TEMPORARY TABLE loaded (LIKE messages) ON COMMIT DROP;

-- name: copy_loaded#
COPY loaded (
    chat_key, message_id, type, sent_at, sent_local, edited_at, edited_local, sender_id, sender_name, action, text,
    entities, media, reactions, reply_to_message_id, reply_to_peer_id, forward, service, extra, revision, source_id
) FROM STDIN (FORMAT binary);

-- name: analyze_loaded#
-- Autovacuum never analyzes temporary tables, and without statistics the planner assumes a small table.
ANALYZE loaded (chat_key, message_id);

-- name: create_contested#
CREATE TEMPORARY TABLE contested (LIKE message_versions) ON COMMIT DROP;

-- name: contest_twins()!
-- If a batch has a message several times: all but its greatest revision.
INSERT INTO contested
SELECT chat_key, message_id, md5(text)::uuid, text, entities, edited_at, edited_local, revision, source_id FROM (
    SELECT *, row_number() OVER (PARTITION BY chat_key, message_id ORDER BY revision DESC, source_id) AS place
    FROM loaded
) AS ranked WHERE place > 1;

-- name: compare_loaded(stale)!
-- The loaded rows of messages that are new (was_revision is null then), or exist in another version, or from
-- another source: the one join of all loaded rows with the messages. place: of the loaded row.
CREATE TEMPORARY TABLE compared ON COMMIT DROP AS
SELECT l.ctid AS place, l.chat_key, l.message_id, l.edited_at, l.edited_local, l.revision, l.source_id,
       CASE WHEN is_known THEN l.text END AS text, CASE WHEN is_known THEN l.entities END AS entities, m.text AS was,
       m.entities AS was_entities, m.edited_at AS was_edited_at, m.edited_local AS was_edited_local,
       m.revision AS was_revision, m.source_id AS was_source, is_stale,
       NOT is_known OR (l.revision, -l.source_id) > (m.revision, -m.source_id) OR is_stale AS is_stored
FROM loaded l LEFT JOIN messages m ON m.chat_key = l.chat_key AND m.message_id = l.message_id
CROSS JOIN LATERAL (
    SELECT m.chat_key IS NOT NULL AS is_known,
           (m.source_id = ANY(:stale::bigint[]) AND left(l.revision, 14) = left(m.revision, 14)) IS TRUE AS is_stale
) AS signs
WHERE m.chat_key IS NULL OR l.revision <> m.revision OR l.source_id < m.source_id
   OR m.source_id = ANY(:stale::bigint[]);

-- name: analyze_compared#
ANALYZE compared (chat_key, message_id);

-- name: delete_older()!
-- Of two versions of a message the greater revision is kept, of two sources of one version the first received.
-- If the revisions differ only in the checksum and the source of the existing row is yet to be stored again,
-- the row is deleted: it came from an older converter, and its successor will be compared with the new row.
DELETE FROM messages m USING compared c
WHERE m.chat_key = c.chat_key AND m.message_id = c.message_id AND c.is_stored;

-- name: contest_lesser()!
-- The lesser of two versions with different texts.
INSERT INTO contested
SELECT chat_key, message_id, md5(was)::uuid, was, was_entities, was_edited_at, was_edited_local, was_revision, was_source
FROM compared WHERE revision > was_revision AND text <> was AND NOT is_stale
UNION ALL
SELECT chat_key, message_id, md5(text)::uuid, text, entities, edited_at, edited_local, revision, source_id
FROM compared WHERE revision < was_revision AND text <> was AND NOT is_stale;

-- name: insert_newer()
-- If a batch has a message several times, the first row is inserted and the others conflict with it. Returns per
-- source file and chat how many messages are new, and of how many another version was deleted before.
WITH inserted AS (
    INSERT INTO messages
    SELECT l.* FROM compared c JOIN loaded l ON l.ctid = c.place WHERE c.is_stored
    ORDER BY l.chat_key, l.message_id, l.revision DESC, l.source_id
    ON CONFLICT DO NOTHING
    RETURNING source_id, chat_key, message_id, revision
), deleted AS (
    SELECT DISTINCT chat_key, message_id, was_revision FROM compared WHERE is_stored AND was_revision IS NOT NULL
)
SELECT i.source_id, i.chat_key, count(*) FILTER (WHERE d.message_id IS NULL) AS new,
       count(*) FILTER (WHERE d.was_revision <> i.revision) AS changed
FROM inserted i LEFT JOIN deleted d ON d.chat_key = i.chat_key AND d.message_id = i.message_id
GROUP BY i.source_id, i.chat_key;

-- name: analyze_contested#
ANALYZE contested (chat_key, message_id);

-- name: keep_versions()!
-- Of the contested texts that the message does not have now, the greatest revision of each.
INSERT INTO message_versions AS v
SELECT DISTINCT ON (c.chat_key, c.message_id, c.content) c.*
FROM contested c JOIN messages m ON m.chat_key = c.chat_key AND m.message_id = c.message_id
WHERE m.text <> c.text
ORDER BY c.chat_key, c.message_id, c.content, c.revision DESC, c.source_id
ON CONFLICT (chat_key, message_id, content) DO UPDATE
SET (text, entities, edited_at, edited_local, revision, source_id) = ROW (
    excluded.text, excluded.entities, excluded.edited_at, excluded.edited_local, excluded.revision,
    excluded.source_id)
WHERE (excluded.revision, -excluded.source_id) > (v.revision, -v.source_id);

-- name: drop_current_versions()!
-- A text that the message has again is not an earlier one.
DELETE FROM message_versions v USING contested c, messages m
WHERE v.chat_key = c.chat_key AND v.message_id = c.message_id
  AND m.chat_key = c.chat_key AND m.message_id = c.message_id AND v.text = m.text;

