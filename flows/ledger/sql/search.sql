-- Search of the messages: flows/tables/search.py and flows/tables/search_index.py run these.

-- name: search_extensions()$
SELECT coalesce(array_agg(extname::text), '{}') FROM pg_extension WHERE extname IN ('unaccent', 'pg_trgm');

-- name: pending_sources()$
SELECT coalesce(array_agg(DISTINCT source_id), '{}') FROM search_pending;

-- name: plain_text(given)$
SELECT search_plain(:given);

-- name: phrases(given)$
SELECT coalesce(array_agg(search_phrase(search_plain(text)) ORDER BY place), '{}')
FROM unnest(:given::text[]) WITH ORDINALITY AS each (text, place);

-- name: parsed(words)^
-- The whole query, and the query without the words that must not occur, as PostgreSQL writes them. T: no word
-- is required.
SELECT query::text AS whole, querytree(query) AS positive FROM websearch_to_tsquery('simple', :words) AS query;

-- name: found(tsquery, words, part, sources, chats, since, until, sender, sender_first, candidates, most)
-- The latest indexed messages that match, at most ``most``: a tsquery, or a part of a text (a LIKE pattern).
-- Only the latest ``candidates`` are examined (null: all); ``looked`` is their number. Each is compared as it
-- is now with words and sender (null: no condition), the latest first, until there are enough; those of
-- ``sources`` are left out, because their indexed state may be outdated. sender_first: the sender is compared
-- before the latest are chosen, which costs the same for each message. The first row may have no message.
WITH candidate AS MATERIALIZED (
    SELECT d.chat_key, d.message_id FROM search_documents d
    WHERE (:tsquery::tsquery IS NULL OR search_vector(d.plain) @@ :tsquery::tsquery)
      AND (:part::text IS NULL OR d.plain LIKE :part)
      AND (:chats::text[] IS NULL OR d.chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR d.sent_at >= :since)
      AND (:until::timestamptz IS NULL OR d.sent_at < :until)
      AND (:sender_first::text IS NULL OR EXISTS (
          SELECT FROM messages m WHERE m.chat_key = d.chat_key AND m.message_id = d.message_id
          AND (m.sender_id = :sender_first OR strpos(lower(m.sender_name), lower(:sender_first)) > 0)))
    ORDER BY d.sent_at DESC NULLS LAST LIMIT :candidates
), fitting AS (
    SELECT c.chat_key, c.message_id FROM candidate c
    CROSS JOIN LATERAL (
        SELECT FROM messages m
        WHERE m.chat_key = c.chat_key AND m.message_id = c.message_id AND m.source_id <> ALL (:sources::bigint[])
          AND (:sender::text IS NULL OR m.sender_id = :sender OR strpos(lower(m.sender_name), lower(:sender)) > 0)
          AND (:words::text IS NULL
               OR search_vector(search_plain(m.text)) @@ websearch_to_tsquery('simple', :words)) OFFSET 0
    ) AS m
    LIMIT :most
)
SELECT f.chat_key, f.message_id, n.looked FROM (SELECT count(*) AS looked FROM candidate) AS n LEFT JOIN fitting f ON true;

-- name: found_pending(words, patterns, every, sources, chats, sender, since, until, most)
-- The same among the messages of these sources, whether they are indexed or not. words null: a part of a text.
-- patterns: LIKE patterns of which the text has every one, or one at least. They are compared first: taking a text
-- apart into words takes ten times as long. Of what is left, the latest are taken apart first.
WITH candidate AS MATERIALIZED (
    SELECT m.chat_key, m.message_id, coalesce(m.sent_at, m.sent_local AT TIME ZONE 'UTC') AS sent
    FROM messages m
    WHERE m.source_id = ANY (:sources::bigint[]) AND m.text <> ''
      AND (:chats::text[] IS NULL OR m.chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR coalesce(m.sent_at, m.sent_local AT TIME ZONE 'UTC') >= :since)
      AND (:until::timestamptz IS NULL OR coalesce(m.sent_at, m.sent_local AT TIME ZONE 'UTC') < :until)
      AND (:sender::text IS NULL OR m.sender_id = :sender OR strpos(lower(m.sender_name), lower(:sender)) > 0)
      AND ((:every AND search_plain(m.text) LIKE ALL (:patterns::text[]))
           OR (NOT :every AND search_plain(m.text) LIKE ANY (:patterns::text[])))
)
SELECT c.chat_key, c.message_id
FROM (SELECT * FROM candidate ORDER BY sent DESC NULLS LAST OFFSET 0) AS c
CROSS JOIN LATERAL (
    SELECT FROM messages m WHERE m.chat_key = c.chat_key AND m.message_id = c.message_id
    AND (:words::text IS NULL
         OR search_vector(search_plain(m.text)) @@ websearch_to_tsquery('simple', :words)) OFFSET 0
) AS m
ORDER BY c.sent DESC NULLS LAST LIMIT :most;

-- name: hits(chat_keys, message_ids, words, part, limit)
-- Those of these messages whose current text matches, best first.
SELECT m.chat_key, c.name AS chat_name, c.chat_id, c.type AS chat_type, c.extra ->> 'username' AS username,
       m.message_id, m.sent_at, m.sent_local, m.sender_id, m.sender_name, m.text, rank
FROM (SELECT DISTINCT * FROM unnest(:chat_keys::text[], :message_ids::bigint[])) AS found (chat_key, message_id)
JOIN messages m USING (chat_key, message_id)
LEFT JOIN chats c USING (chat_key)
CROSS JOIN LATERAL (SELECT search_plain(m.text) AS plain OFFSET 0) p
CROSS JOIN LATERAL (SELECT CASE WHEN :words::text IS NOT NULL THEN search_vector(plain) END AS vector OFFSET 0) v
CROSS JOIN LATERAL (SELECT ts_rank_cd(vector, websearch_to_tsquery('simple', :words), 1) AS rank) r
WHERE (:words::text IS NULL OR vector @@ websearch_to_tsquery('simple', :words))
  AND (:part::text IS NULL OR plain LIKE :part)
ORDER BY rank DESC NULLS LAST, coalesce(m.sent_at, m.sent_local AT TIME ZONE 'UTC') DESC NULLS LAST, m.chat_key, m.message_id
LIMIT :limit;

-- name: rebuild_search()$
SELECT search_rebuild();

-- name: index_alone(lock_key)$
SELECT pg_try_advisory_xact_lock(:lock_key);

-- name: take_pending(most)$
-- Sources to be indexed now, whose rows are removed. Loads that add a row later find it kept.
WITH chosen AS (
    SELECT DISTINCT source_id FROM search_pending ORDER BY source_id LIMIT :most
), taken AS (
    DELETE FROM search_pending USING chosen WHERE search_pending.source_id = chosen.source_id
)
SELECT coalesce(array_agg(source_id), '{}') FROM chosen;

-- name: index_sources(sources)!
INSERT INTO search_documents AS d
SELECT chat_key, message_id, coalesce(sent_at, sent_local AT TIME ZONE 'UTC'), search_plain(text)
FROM messages WHERE source_id = ANY (:sources::bigint[]) AND text <> ''
ON CONFLICT (chat_key, message_id) DO UPDATE SET sent_at = excluded.sent_at, plain = excluded.plain
WHERE d.plain <> excluded.plain OR d.sent_at IS DISTINCT FROM excluded.sent_at;

-- name: prune_documents()!
-- Documents of messages that no longer exist or are in another chat.
DELETE FROM search_documents d
WHERE NOT EXISTS (SELECT FROM messages m WHERE m.chat_key = d.chat_key AND m.message_id = d.message_id);
