-- What each export holds of a chat, from which store finds the messages that are missing. A source file can have
-- several exports of one chat. Chats of source files that an earlier release has stored are not here.
CREATE TABLE chat_exports (
    chat_key    text COLLATE "C" NOT NULL, -- of the export: a floating chat may be joined with another one
    source_id   bigint NOT NULL,
    position    integer NOT NULL, -- of the export in its source file
    form        text NOT NULL,
    messages    bigint NOT NULL,
    ids         bytea,   -- of the messages: flows/exports/held.py; null: not known, then nothing is proved
    whole       boolean NOT NULL, -- it lacks no message between the first and the last one, as far as it shows
    topics      bigint NOT NULL,  -- topics that were created in it
    first_id    bigint,  -- of the messages with a positive id, as the times
    last_id     bigint,
    first_at    timestamptz, -- null if the instant of a message is not certain
    last_at     timestamptz,
    first_local timestamp,
    last_local  timestamp,
    latest      bigint NOT NULL, -- second of the last message or edit: the export was made after it
    PRIMARY KEY (chat_key, source_id, position)
);
ALTER TABLE chat_exports ALTER COLUMN ids SET STORAGE EXTERNAL; -- compressed already
CREATE INDEX chat_exports_source ON chat_exports (source_id); -- when a source file is stored again

-- Messages that are missing, as far as that is proved: the earliest export that covers the message and lacks it,
-- after the last one that has it. Stores compute the rows of the chats that they load from chat_exports.
CREATE TABLE missing_messages (
    chat_key      text COLLATE "C" NOT NULL,
    message_id    bigint NOT NULL,
    missing_since bigint NOT NULL, -- source_id of that export
    PRIMARY KEY (chat_key, message_id)
);
COMMENT ON TABLE missing_messages IS
    'Messages that a later export of their chat no longer has: missing_since is the source file of the first one.';
