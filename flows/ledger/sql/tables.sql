-- What `tdp export` and data frames read. flows/tables/relations.py names the columns; a statement has these
-- parameters or some of them: keys of chats, and the earliest and the first excluded time (null: no condition).

-- name: matching_chats(given)
-- The chats that match best: by key (also of a chat that was joined) or id, else by the whole name, else by a part
-- of it.
WITH ranked AS (
    SELECT c.chat_key, c.name, c.type, CASE
               WHEN :given IN (c.chat_key, c.chat_id::text) OR EXISTS (
                   SELECT FROM chat_aliases a WHERE a.alias = :given AND a.chat_key = c.chat_key) THEN 1
               WHEN lower(c.name) = lower(:given) THEN 2
               WHEN strpos(lower(c.name), lower(:given)) > 0 THEN 3 END AS rank
    FROM chats c
)
SELECT chat_key, name, type FROM ranked
WHERE rank = (SELECT min(rank) FROM ranked) ORDER BY name, chat_key;

-- name: rows_of_messages(chats, since, until)
-- Without a certain instant the wall clock decides. The conditions on sent_at alone are for its BRIN index.
SELECT m.chat_key, c.name AS chat_name, m.message_id, m.type, m.sent_at, m.sent_local, m.edited_at, m.edited_local,
       m.sender_id, m.sender_name, m.action, m.text, m.entities, m.media, m.reactions, m.reply_to_message_id,
       m.reply_to_peer_id, m.forward, m.service, m.extra, m.revision, m.source_id, x.missing_since
FROM messages m LEFT JOIN chats c USING (chat_key) LEFT JOIN missing_messages x USING (chat_key, message_id)
WHERE (:chats::text[] IS NULL OR m.chat_key = ANY (:chats::text[]))
  AND (:since::timestamptz IS NULL OR m.sent_at >= :since
       OR (m.sent_at IS NULL AND m.sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
  AND (:until::timestamptz IS NULL OR m.sent_at < :until
       OR (m.sent_at IS NULL AND m.sent_local < :until::timestamptz AT TIME ZONE 'UTC'));

-- name: rows_of_chats(chats)
SELECT chat_key, chat_id, type, name, account, form, extra, source_id FROM chats
WHERE :chats::text[] IS NULL OR chat_key = ANY (:chats::text[])
ORDER BY name, chat_key;

-- name: rows_of_senders(chats, since, until)
-- The name is that of the latest message.
SELECT sender_id, (array_agg(name ORDER BY name IS NULL, latest DESC NULLS LAST, name))[1] AS sender_name,
       sum(messages)::bigint AS messages, count(DISTINCT chat_key) AS chats,
       min(first_sent_at) AS first_sent_at, max(last_sent_at) AS last_sent_at
FROM (
    SELECT chat_key, sender_id, sender_name AS name, count(*) AS messages, min(sent_at) AS first_sent_at,
           max(sent_at) AS last_sent_at, max(coalesce(sent_at, sent_local AT TIME ZONE 'UTC')) AS latest
    FROM messages
    WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
      AND (:chats::text[] IS NULL OR chat_key = ANY (:chats::text[]))
      AND (:since::timestamptz IS NULL OR sent_at >= :since
           OR (sent_at IS NULL AND sent_local >= :since::timestamptz AT TIME ZONE 'UTC'))
      AND (:until::timestamptz IS NULL OR sent_at < :until
           OR (sent_at IS NULL AND sent_local < :until::timestamptz AT TIME ZONE 'UTC'))
    GROUP BY chat_key, sender_id, sender_name
) AS named
GROUP BY sender_id, CASE WHEN sender_id IS NULL THEN name END
ORDER BY messages DESC, sender_id, sender_name;

-- name: rows_of_stage_runs(since, until)
-- parent_flow_run_id: the run that had listed the batch last.
SELECT t.stage_run_id, t.batch_id, t.stage, t.attempt, t.outcome, t.host, t.pid, r.slot, t.queued_at, t.started_at,
       t.finished_at, t.wait_sec, t.duration_sec, t.files, t.bytes_in, r.error, r.flow_run_id,
       (SELECT l.flow_run_id FROM run_batches l WHERE l.batch_id = t.batch_id AND l.listed_at <= t.queued_at
        ORDER BY l.listed_at DESC LIMIT 1) AS parent_flow_run_id
FROM stage_timings t JOIN stage_runs r USING (stage_run_id)
WHERE (:since::timestamptz IS NULL OR t.queued_at >= :since) AND (:until::timestamptz IS NULL OR t.queued_at < :until)
ORDER BY t.queued_at, t.stage_run_id;

-- name: rows_of_timings(since, until)
-- One row for each stage of each batch; waits are those of the last attempt.
SELECT batch_id, stage, count(*) AS attempts, count(*) FILTER (WHERE outcome NOT IN ('COMPLETED', 'CANCELLED')) AS failed,
       min(queued_at) AS queued_at, max(finished_at) AS finished_at, sum(wait_sec) AS wait_sec,
       sum(duration_sec) AS duration_sec, max(files) AS files, max(bytes_in) AS bytes_in
FROM stage_timings JOIN stages USING (stage)
WHERE (:since::timestamptz IS NULL OR queued_at >= :since) AND (:until::timestamptz IS NULL OR queued_at < :until)
GROUP BY batch_id, stage, position ORDER BY batch_id, position;
