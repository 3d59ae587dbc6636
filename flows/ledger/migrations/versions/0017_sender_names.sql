-- The name of a sender is that of the latest message; before, it was the last one by the alphabet.
CREATE OR REPLACE VIEW senders AS
SELECT chat_key, sender_id, (array_agg(name ORDER BY name IS NULL, latest DESC NULLS LAST, name))[1] AS sender_name,
       sum(messages)::bigint AS messages, min(first_sent_at) AS first_sent_at, max(last_sent_at) AS last_sent_at
FROM (
    SELECT chat_key, sender_id, sender_name AS name, count(*) AS messages, min(sent_at) AS first_sent_at,
           max(sent_at) AS last_sent_at, max(coalesce(sent_at, sent_local AT TIME ZONE 'UTC')) AS latest
    FROM messages WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
    GROUP BY chat_key, sender_id, sender_name
) AS named
GROUP BY chat_key, sender_id, CASE WHEN sender_id IS NULL THEN name END;
