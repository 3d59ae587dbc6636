-- Join chats that are the same: flows/stages/store/joining.py runs these in the transaction of a load.

-- name: related(chat_keys, clues, ranks)
-- The given chats and all chats that floating chats connect with them, with their clues.
WITH RECURSIVE related AS (
    SELECT chat_key COLLATE "C" AS chat_key, clue COLLATE "C" AS clue, rank
    FROM unnest(:chat_keys::text[], :clues::text[], :ranks::smallint[]) AS given (chat_key, clue, rank)
    UNION
    SELECT found.chat_key, found.clue, found.rank
    FROM related r CROSS JOIN LATERAL (
        SELECT * FROM chat_clues c WHERE c.clue = r.clue AND 2 IN (c.rank, r.rank)
        UNION ALL
        SELECT * FROM chat_clues c WHERE c.chat_key = r.chat_key
    ) found
)
SELECT chat_key, clue, rank FROM related;

-- name: lock(lock_class, buckets, exclusive)!
-- Locks are acquired in the given order, so that loads wait for each other and never deadlock.
SELECT CASE WHEN b.exclusive THEN pg_advisory_xact_lock(:lock_class, b.bucket)
            ELSE pg_advisory_xact_lock_shared(:lock_class, b.bucket) END
FROM unnest(:buckets::int[], :exclusive::bool[]) AS b (bucket, exclusive);

-- name: joined_with(chat_keys)
-- The given chats and all chats that are joined with them.
WITH best AS (
    SELECT unnest(:chat_keys::text[]) COLLATE "C" AS chat_key
    UNION SELECT chat_key FROM chat_aliases WHERE alias = ANY(:chat_keys)
)
SELECT chat_key FROM best
UNION SELECT a.alias FROM chat_aliases a JOIN best USING (chat_key);

-- name: delete_joined(chat_keys)!
-- Joining is undone in four steps: delete the joined rows …
DELETE FROM messages WHERE joined_from = ANY(:chat_keys);

-- name: restore_messages(chat_keys)!
-- … restore the messages that joining displaced …
WITH displaced AS (DELETE FROM joined_messages WHERE chat_key = ANY(:chat_keys) RETURNING *)
INSERT INTO messages SELECT * FROM displaced;

-- name: restore_chats(chat_keys)!
-- … and the chats …
WITH displaced AS (DELETE FROM joined_chats WHERE chat_key = ANY(:chat_keys) RETURNING *)
INSERT INTO chats SELECT * FROM displaced;

-- name: delete_aliases(chat_keys)!
-- … and delete the aliases.
DELETE FROM chat_aliases WHERE alias = ANY(:chat_keys);

-- name: mark_moved(chat_keys)!
-- Messages of these chats may have been in another chat when they were indexed for search.
INSERT INTO search_pending SELECT DISTINCT source_id FROM messages WHERE chat_key = ANY(:chat_keys);

-- name: compare(ones, others, most)
-- Compares pairs of chats by the rows of their own exports, at most ``most`` shared ids of each (null: all):
-- the number of shared ids, whether one of them is the same message in both chats, and whether one has
-- different times. If an instant is unknown, the wall clocks may have been in two zones: a difference by whole
-- quarters of an hour, up to that of UTC-12 and UTC+14, does not count as a different time, and proves that
-- they are the same message only if it has a text. Pair by pair and id by id (OFFSET 0): the planner has no
-- statistics of new rows, and a join by message id alone would compare every chat with every other.
WITH own AS NOT MATERIALIZED (
    SELECT chat_key, message_id, type, sent_at, sent_local, text FROM messages WHERE joined_from IS NULL
    UNION ALL
    SELECT chat_key, message_id, type, sent_at, sent_local, text FROM joined_messages
), span AS MATERIALIZED (
    SELECT chat_key, first, last
    FROM (SELECT unnest(:ones::text[]) UNION SELECT unnest(:others::text[])) AS named (chat_key)
    CROSS JOIN LATERAL (
        SELECT min(message_id) AS first, max(message_id) AS last FROM own WHERE own.chat_key = named.chat_key
    ) ids
)
SELECT p.one, p.other, evidence.*
FROM unnest(:ones::text[], :others::text[]) AS p (one, other)
JOIN span s ON s.chat_key = p.one
JOIN span o ON o.chat_key = p.other AND o.first <= s.last AND s.first <= o.last
CROSS JOIN LATERAL (
    SELECT count(*) AS shared, bool_or(same_text AND (apart = 0 OR zones AND has_text)) AS equal,
           bool_or(NOT (apart = 0 OR zones)) AS differ
    FROM (
        SELECT apart, unknown AND mod(apart, 900) = 0 AND abs(apart) <= 26 * 3600 AS zones,
               a.type = 'message' AND b.type = 'message'
                   AND btrim(a.text, E' \t\r\n') = btrim(b.text, E' \t\r\n') AS same_text,
               btrim(a.text, E' \t\r\n') <> '' AS has_text
        FROM own a CROSS JOIN LATERAL (
            SELECT * FROM own WHERE chat_key = p.other AND message_id = a.message_id OFFSET 0
        ) b CROSS JOIN LATERAL (SELECT a.sent_at IS NULL OR b.sent_at IS NULL AS unknown) instants
        CROSS JOIN LATERAL (
            SELECT CASE WHEN unknown THEN floor(extract(epoch FROM a.sent_local))
                                         - floor(extract(epoch FROM b.sent_local))
                        ELSE floor(extract(epoch FROM a.sent_at)) - floor(extract(epoch FROM b.sent_at))
                   END AS apart
        ) seconds
        WHERE a.chat_key = p.one AND a.message_id BETWEEN o.first AND o.last
        LIMIT :most
    ) seen
) evidence
WHERE shared > 0;

-- name: add_aliases(aliases, chat_keys)!
INSERT INTO chat_aliases (alias, chat_key) SELECT * FROM unnest(:aliases::text[], :chat_keys::text[]);

-- name: join_chats(aliases)!
WITH gone AS (
    DELETE FROM chats c USING chat_aliases a
    WHERE a.alias = ANY(:aliases) AND c.chat_key = a.alias RETURNING c.*
)
INSERT INTO joined_chats SELECT * FROM gone;

-- name: join_messages(aliases)!
WITH gone AS (
    DELETE FROM messages m USING chat_aliases a
    WHERE a.alias = ANY(:aliases) AND m.chat_key = a.alias RETURNING m.*
)
INSERT INTO joined_messages SELECT * FROM gone;

-- name: join_older(aliases)!
WITH arriving AS MATERIALIZED (
    SELECT a.chat_key, j.message_id, j.revision, j.source_id
    FROM chat_aliases a JOIN joined_messages j ON j.chat_key = a.alias
    WHERE a.alias = ANY(:aliases)
), gone AS (
    DELETE FROM messages m USING arriving j
    WHERE m.chat_key = j.chat_key AND m.message_id = j.message_id
      AND (j.revision, -j.source_id) > (m.revision, -m.source_id)
    RETURNING m.*
)
INSERT INTO joined_messages SELECT * FROM gone;

-- name: join_newer(aliases)!
INSERT INTO messages
SELECT DISTINCT ON (a.chat_key, j.message_id)
    a.chat_key, j.message_id, j.type, j.sent_at, j.sent_local, j.edited_at, j.edited_local, j.sender_id,
    j.sender_name, j.action, j.text, j.entities, j.media, j.reactions, j.reply_to_message_id,
    j.reply_to_peer_id, j.forward, j.service, j.extra, j.revision, j.source_id, j.chat_key
FROM chat_aliases a JOIN joined_messages j ON j.chat_key = a.alias
WHERE a.alias = ANY(:aliases)
ORDER BY a.chat_key, j.message_id, j.revision DESC, j.source_id, j.chat_key
ON CONFLICT DO NOTHING;

-- name: aliases_of(chat_keys)
-- The chats that are joined with one of these, each with its best identified chat.
SELECT alias, chat_key FROM chat_aliases
WHERE chat_key = ANY(:chat_keys::text[])
   OR chat_key IN (SELECT chat_key FROM chat_aliases WHERE alias = ANY(:chat_keys::text[]));

-- name: create_compared#
CREATE TEMPORARY TABLE IF NOT EXISTS compared (
    chat_key text COLLATE "C", message_id bigint, was_revision text COLLATE "C"
) ON COMMIT DROP;

-- name: count_joined(chat_keys, sources)
-- Per source file and chat: the messages that no export of any of the joined chats had before this load, which
-- loaded these sources. Of a message that they had, another row is among the displaced ones or was compared.
WITH member AS (
    SELECT chat_key, alias FROM chat_aliases WHERE chat_key = ANY(:chat_keys::text[])
    UNION ALL SELECT key, key FROM unnest(:chat_keys::text[]) AS key
)
SELECT m.source_id, m.chat_key, count(*) AS new FROM messages m
WHERE m.chat_key = ANY(:chat_keys::text[]) AND m.source_id = ANY(:sources::bigint[])
  AND NOT EXISTS (
      SELECT FROM member g JOIN joined_messages j ON j.chat_key = g.alias
      WHERE g.chat_key = m.chat_key AND j.message_id = m.message_id AND j.source_id <> ALL(:sources::bigint[]))
  AND NOT EXISTS (
      SELECT FROM member g JOIN compared c ON c.chat_key = g.alias
      WHERE g.chat_key = m.chat_key AND c.message_id = m.message_id AND c.was_revision IS NOT NULL)
GROUP BY m.source_id, m.chat_key;
