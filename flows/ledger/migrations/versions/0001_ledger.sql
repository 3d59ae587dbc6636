-- The stages in processing order. Only one run of an exclusive stage may be at work at a time.
CREATE TABLE stages (
    stage     text PRIMARY KEY,
    position  smallint NOT NULL UNIQUE,
    exclusive boolean NOT NULL
);
INSERT INTO stages VALUES ('extract', 1, true), ('convert', 2, true), ('store', 3, false);

-- One row per content that was ever received.
CREATE TABLE source_files (
    source_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256      text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    name        text NOT NULL,
    size_bytes  bigint NOT NULL,
    stored_path text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    purged_at   timestamptz
);

-- One row per arrival in an inbox: the first one of each content, and every duplicate.
CREATE TABLE receipts (
    receipt_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id   bigint NOT NULL REFERENCES source_files,
    origin      text NOT NULL,
    duplicate   boolean NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX receipts_source ON receipts (source_id);

CREATE SEQUENCE batch_number;
CREATE TABLE batch_processing (
    batch_id             text PRIMARY KEY DEFAULT 'batch_' || to_char(nextval('batch_number'), 'FM999999000000'),
    status               text NOT NULL DEFAULT 'QUEUED'
        CHECK (status IN ('QUEUED', 'EXTRACTING', 'CONVERTING', 'STORING', 'COMPLETED', 'FAILED')),
    file_count           integer NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at           timestamptz,
    completed_at         timestamptz,
    extract_duration_sec double precision,
    convert_duration_sec double precision,
    store_duration_sec   double precision,
    error_message        text,
    flow_run_id          uuid
);
CREATE INDEX batch_processing_created ON batch_processing (created_at);
CREATE INDEX batch_processing_open ON batch_processing (status) WHERE status <> 'COMPLETED';

-- A source file belongs to one batch permanently.
CREATE TABLE batch_files (
    batch_id  text NOT NULL REFERENCES batch_processing,
    source_id bigint NOT NULL UNIQUE REFERENCES source_files,
    position  integer NOT NULL,
    status    text NOT NULL DEFAULT 'WAITING'
        CHECK (status IN ('WAITING', 'STORED', 'PARTIAL', 'QUARANTINED')),
    stage     text REFERENCES stages,
    error     text,
    chats     bigint,
    messages  bigint,
    PRIMARY KEY (batch_id, position)
);

-- The list of batches of a parent run, frozen so that a retry processes it in the same order.
CREATE TABLE run_batches (
    flow_run_id uuid NOT NULL,
    position    integer NOT NULL,
    batch_id    text NOT NULL REFERENCES batch_processing,
    listed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_stage  text REFERENCES stages, -- backfills only: the first stage to run again, and
    prepared_at timestamptz,            -- when the outputs from that stage on were discarded
    PRIMARY KEY (flow_run_id, position)
);
CREATE INDEX run_batches_batch ON run_batches (batch_id, listed_at);

-- The lists of live backfills.
CREATE VIEW living_backfills AS
SELECT r.flow_run_id, r.batch_id, r.listed_at FROM run_batches r
JOIN pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(r.flow_run_id::text, 1)
WHERE r.from_stage IS NOT NULL;

-- One attempt at one stage of one batch. All times are the database's.
CREATE TABLE stage_runs (
    stage_run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id     text NOT NULL REFERENCES batch_processing,
    stage        text NOT NULL REFERENCES stages,
    attempt      integer NOT NULL,
    queued_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    fenced_at    timestamptz,
    started_at   timestamptz,
    finished_at  timestamptz,
    outcome      text CHECK (outcome IN ('COMPLETED', 'FAILED', 'TIMED_OUT', 'CANCELLED', 'LOST')),
    error        text,
    host         text NOT NULL,
    pid          integer NOT NULL,
    slot         integer NOT NULL DEFAULT 0,
    lease_id     uuid,
    flow_run_id  uuid,
    task_run_id  uuid,
    files        integer,
    bytes_in     bigint,
    counts       jsonb,
    CHECK ((finished_at IS NULL) = (outcome IS NULL)),
    CHECK (started_at IS NULL OR fenced_at IS NOT NULL)
);
CREATE INDEX stage_runs_batch ON stage_runs (batch_id, stage);
CREATE INDEX stage_runs_open ON stage_runs (stage, slot) WHERE finished_at IS NULL;
CREATE INDEX stage_runs_started ON stage_runs (stage, started_at);

-- A Prefect lease kept with its fence for the next waiter, instead of being released and acquired again.
CREATE TABLE parked_leases (
    stage    text NOT NULL REFERENCES stages,
    slot     integer NOT NULL,
    lease_id uuid NOT NULL,
    taken_at timestamptz NOT NULL,
    PRIMARY KEY (stage, slot)
);

CREATE VIEW stage_timings AS
SELECT stage_run_id, batch_id, stage, attempt, outcome, host, pid, queued_at, started_at, finished_at,
       extract(epoch FROM coalesce(started_at, finished_at, clock_timestamp()) - queued_at)::float8 AS wait_sec,
       extract(epoch FROM coalesce(finished_at, clock_timestamp()) - started_at)::float8 AS duration_sec,
       files, bytes_in
FROM stage_runs;

-- Per gate: the runs that wait for it, and the runs at work behind it.
CREATE VIEW queue_sizes AS
SELECT s.stage,
       count(r.stage_run_id) FILTER (WHERE r.started_at IS NULL) AS waiting,
       count(r.stage_run_id) FILTER (WHERE r.started_at IS NOT NULL) AS running,
       coalesce(max(extract(epoch FROM clock_timestamp() - r.queued_at))
                FILTER (WHERE r.started_at IS NULL), 0)::float8 AS oldest_wait_sec
FROM stages s LEFT JOIN stage_runs r ON r.stage = s.stage AND r.finished_at IS NULL
GROUP BY s.stage, s.position ORDER BY s.position;

-- Runs of an exclusive stage that started before an earlier run had ended. Must always be empty.
CREATE VIEW stage_overlaps AS
SELECT * FROM (
    SELECT r.stage, r.stage_run_id, r.batch_id, r.host, r.pid, r.started_at, r.finished_at,
           max(coalesce(r.finished_at, 'infinity')) OVER (
               PARTITION BY r.stage ORDER BY r.started_at, r.stage_run_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier_finished_at
    FROM stage_runs r JOIN stages s ON s.stage = r.stage AND s.exclusive
    WHERE r.started_at IS NOT NULL
) ordered
WHERE started_at < earlier_finished_at;

-- The data; flows/exports/columns.py describes the columns. Keys and revisions use the collation "C": comparing
-- bytes is fast and gives the same order on every server. source_id 0: no source file in the ledger.
CREATE TABLE chats (
    chat_key  text COLLATE "C" PRIMARY KEY,
    chat_id   bigint,
    type      text,
    name      text,
    account   text,
    form      text NOT NULL,
    extra     jsonb,
    revision  text COLLATE "C" NOT NULL, -- orders the versions of one chat in several exports; the greatest wins
    source_id bigint NOT NULL
);
CREATE INDEX chats_name ON chats (name);
CREATE INDEX chats_id ON chats (chat_id);

CREATE TABLE messages (
    chat_key            text COLLATE "C" NOT NULL,
    message_id          bigint NOT NULL,
    type                text NOT NULL,
    sent_at             timestamptz,
    sent_local          timestamp,
    edited_at           timestamptz,
    edited_local        timestamp,
    sender_id           text,
    sender_name         text,
    action              text,
    text                text NOT NULL,
    entities            jsonb,
    media               jsonb,
    reactions           jsonb,
    reply_to_message_id bigint,
    reply_to_peer_id    text,
    forward             jsonb,
    service             jsonb,
    extra               jsonb,
    revision            text COLLATE "C" NOT NULL,
    source_id           bigint NOT NULL,
    joined_from         text COLLATE "C", -- the floating chat that the row came from; null: the chat itself
    PRIMARY KEY (chat_key, message_id)
);
-- Messages are stored in order of time: BRIN finds a day almost as fast as a B-tree, at no cost to loads.
CREATE INDEX messages_sent ON messages USING brin (sent_at);
CREATE INDEX messages_source ON messages USING brin (source_id); -- when a source file is stored again
CREATE INDEX messages_joined ON messages (joined_from) WHERE joined_from IS NOT NULL;

-- Clues by which a floating chat and another one are recognised as the same: "peer:user5", "name:Anna",
-- "start:1a2b3c4d".
CREATE TABLE chat_clues (
    clue     text COLLATE "C" NOT NULL,
    chat_key text COLLATE "C" NOT NULL,
    rank     smallint NOT NULL, -- 2: floating because of this clue, 1: floating because of another, 0: known
    PRIMARY KEY (clue, chat_key)
);
CREATE INDEX chat_clues_chat ON chat_clues (chat_key);

-- A floating chat (alias) that its messages proved to be another chat, which itself is not an alias.
CREATE TABLE chat_aliases (
    alias    text COLLATE "C" PRIMARY KEY,
    chat_key text COLLATE "C" NOT NULL
);
CREATE INDEX chat_aliases_chat ON chat_aliases (chat_key);

-- Rows that joining removed from chats and messages: the floating chats as their own exports have them, and the
-- rows that their messages replaced. With them, each load decides again from all rows ever received, in any order.
CREATE TABLE joined_chats (LIKE chats, PRIMARY KEY (chat_key));
CREATE TABLE joined_messages (LIKE messages, PRIMARY KEY (chat_key, message_id));
