-- Earlier texts of messages, as the exports of their own chat had them: one row per text that differs from that of
-- the current row, in its greatest revision. So the order of loading changes nothing. Edits of the format alone
-- make no version: HTML and JSON show formats differently.
CREATE TABLE message_versions (
    chat_key     text COLLATE "C" NOT NULL, -- of the export: a floating chat may be joined with another one
    message_id   bigint NOT NULL,
    content      uuid NOT NULL, -- MD5 of the text
    text         text NOT NULL,
    entities     jsonb,
    edited_at    timestamptz,
    edited_local timestamp,
    revision     text COLLATE "C" NOT NULL,
    source_id    bigint NOT NULL,
    PRIMARY KEY (chat_key, message_id, content)
);
CREATE INDEX message_versions_source ON message_versions (source_id); -- when a source file is stored again

CREATE VIEW edits AS
SELECT coalesce(a.chat_key, v.chat_key) AS chat_key, v.message_id, v.text, v.entities, v.edited_at, v.edited_local,
       v.revision, v.source_id
FROM message_versions v LEFT JOIN chat_aliases a ON a.alias = v.chat_key
UNION
SELECT a.chat_key, j.message_id, j.text, j.entities, j.edited_at, j.edited_local, j.revision, j.source_id
FROM joined_messages j JOIN chat_aliases a ON a.alias = j.chat_key
JOIN messages m ON m.chat_key = a.chat_key AND m.message_id = j.message_id
WHERE m.type = 'message' AND j.text <> m.text AND j.revision < m.revision;  -- HTML has a text for service messages
COMMENT ON VIEW edits IS
    'Earlier texts of messages, whose current ones are in messages: revision orders them, edited_at is the time of the '
    'edit that made this text (null: as it was sent), source_id the source file that brought it.';
