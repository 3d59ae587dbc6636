-- One row per bot that has polled: the process that polls, its last successful getUpdates, and what went wrong.
CREATE TABLE bots (
    bot_id      bigint PRIMARY KEY,
    name        text NOT NULL,
    host        text NOT NULL,
    pid         integer NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    polled_at   timestamptz,
    stopped_at  timestamptz, -- it was stopped on purpose
    conflict_at timestamptz, -- the last time that another poller of the same bot was detected
    error       text,
    error_at    timestamptz,
    raised      jsonb NOT NULL DEFAULT '{}' -- the conditions of the monitor that admins were notified of
);

-- A group of uploads of one user in one chat, with one status message that is edited in place.
CREATE TABLE announcements (
    announcement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bot_id     bigint NOT NULL,
    chat_id    bigint NOT NULL,
    user_id    bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at  timestamptz,                   -- the outcome of every file was sent; no upload joins the group any more
    is_settled boolean NOT NULL DEFAULT false, -- every file was stored: nothing can improve
    given_up   text                           -- why nothing more is sent
);
CREATE INDEX announcements_live ON announcements (bot_id) WHERE NOT is_settled AND given_up IS NULL;

-- The messages of a group. sending_at is committed before a message is sent, sent_at after it.
CREATE TABLE announcement_messages (
    announcement_id bigint NOT NULL REFERENCES announcements ON DELETE CASCADE,
    page       integer NOT NULL,
    message_id bigint,
    text       text,
    sending_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at    timestamptz,
    PRIMARY KEY (announcement_id, page)
);

-- One row per document that an uploader sent. SEEN is committed before the update is acknowledged.
CREATE TABLE uploads (
    upload_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bot_id      bigint NOT NULL,
    chat_id     bigint NOT NULL,
    message_id  bigint NOT NULL,
    user_id     bigint NOT NULL,
    user_name   text NOT NULL,
    file_id     text NOT NULL,
    file_name   text NOT NULL,
    size_bytes  bigint,
    state       text NOT NULL DEFAULT 'SEEN'
        CHECK (state IN ('SEEN', 'WAITING_SPACE', 'RECEIVED', 'REFUSED', 'FAILED')),
    reason      text,
    tries       integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    received_at timestamptz,
    reacted_at  timestamptz,
    duplicate   boolean,
    source_id   bigint REFERENCES source_files,
    announcement_id bigint NOT NULL REFERENCES announcements,
    UNIQUE (bot_id, chat_id, message_id)
);
CREATE INDEX uploads_open ON uploads (bot_id) WHERE state IN ('SEEN', 'WAITING_SPACE');
CREATE INDEX uploads_source ON uploads (source_id);
CREATE INDEX uploads_announcement ON uploads (announcement_id);

-- Updates that could not be read. They are acknowledged, or they would block all later ones.
CREATE TABLE bot_updates (
    bot_id      bigint NOT NULL,
    update_id   bigint,
    content     text NOT NULL,
    error       text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Users on no list who have received the one answer that they get.
CREATE TABLE bot_strangers (
    bot_id      bigint NOT NULL,
    user_id     bigint NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (bot_id, user_id)
);

-- The origin of a file from the bot is telegram:<chat>/<message>.
CREATE INDEX receipts_telegram ON receipts (origin) WHERE starts_with(origin, 'telegram:');
