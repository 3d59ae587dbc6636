-- name: lock_bot^
-- Only one process may poll a bot: Telegram responds to a second poller with 409 Conflict.
SELECT pg_try_advisory_lock(:space, hashtext(:bot_id::text)) AS locked;

-- name: bot_starting!
-- Its name is known only after the server has responded; until then it counts as silent since its first
-- start.
INSERT INTO bots (bot_id, name, host, pid) VALUES (:bot_id, :bot_id::bigint::text, :host, :pid)
ON CONFLICT (bot_id) DO UPDATE SET host = excluded.host, pid = excluded.pid, stopped_at = NULL;

-- name: bot_started!
INSERT INTO bots (bot_id, name, host, pid) VALUES (:bot_id, :name, :host, :pid)
ON CONFLICT (bot_id) DO UPDATE SET name = excluded.name, host = excluded.host, pid = excluded.pid,
    started_at = clock_timestamp(), stopped_at = NULL;

-- name: bot_stopped!
UPDATE bots SET stopped_at = clock_timestamp() WHERE bot_id = :bot_id;

-- name: bot_polled!
UPDATE bots SET polled_at = clock_timestamp(), error = NULL WHERE bot_id = :bot_id;

-- name: bot_failed!
UPDATE bots SET error = :error, error_at = clock_timestamp(),
    conflict_at = CASE WHEN :is_conflict THEN clock_timestamp() ELSE conflict_at END WHERE bot_id = :bot_id;

-- name: bot_raised^
SELECT raised FROM bots WHERE bot_id = :bot_id;

-- name: set_bot_raised!
UPDATE bots SET raised = :raised WHERE bot_id = :bot_id;

-- name: keep_bot_update!
INSERT INTO bot_updates (bot_id, update_id, content, error) VALUES (:bot_id, :update_id, :content, :error);

-- name: answer_stranger
-- Returns a row for the first message of a stranger only.
INSERT INTO bot_strangers (bot_id, user_id) VALUES (:bot_id, :user_id) ON CONFLICT DO NOTHING RETURNING user_id;

-- name: see_upload
-- A replayed update changes nothing. The upload joins the open group of its sender in this chat, or a new
-- one. Uploads join a group for an hour, so that a user who sends files all day gets the outcomes of the
-- first ones early.
WITH known AS (
    SELECT FROM uploads WHERE (bot_id, chat_id, message_id) = (:bot_id, :chat_id, :message_id)
), open_group AS (
    SELECT max(announcement_id) AS announcement_id FROM announcements
    WHERE (bot_id, chat_id, user_id) = (:bot_id, :chat_id, :user_id)
      AND closed_at IS NULL AND given_up IS NULL
      AND created_at > clock_timestamp() - interval '1 hour'
), new_group AS (
    INSERT INTO announcements (bot_id, chat_id, user_id) SELECT :bot_id, :chat_id, :user_id FROM open_group
    WHERE announcement_id IS NULL AND NOT EXISTS (SELECT FROM known)
    RETURNING announcement_id
)
INSERT INTO uploads (bot_id, chat_id, message_id, user_id, user_name, file_id, file_name, size_bytes, state, reason,
                     announcement_id)
SELECT :bot_id, :chat_id, :message_id, :user_id, :user_name, :file_id, :file_name, :size_bytes, :state, :reason,
       coalesce(o.announcement_id, n.announcement_id)
FROM open_group o LEFT JOIN new_group n ON true
WHERE NOT EXISTS (SELECT FROM known)
RETURNING upload_id;

-- name: upload_as_sent
-- A row if the upload of a message has this name and size.
SELECT upload_id FROM uploads
WHERE (bot_id, chat_id, message_id) = (:bot_id, :chat_id, :message_id)
  AND (file_name, size_bytes) IS NOT DISTINCT FROM (:file_name::text, :size_bytes::bigint);

-- name: next_uploads
-- Uploaders take turns: the first file of each comes before the second of any.
SELECT upload_id, chat_id, message_id, file_id, file_name, size_bytes, tries, state, seen_at,
       extract(epoch FROM clock_timestamp() - seen_at)::float8 AS age_sec
FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY upload_id) AS turn FROM uploads
      WHERE bot_id = :bot_id AND state IN ('SEEN', 'WAITING_SPACE')) open
WHERE next_try_at <= clock_timestamp() AND NOT upload_id = ANY (:busy::bigint[])
ORDER BY turn, upload_id LIMIT :free;

-- name: pending_uploads
SELECT chat_id, message_id FROM uploads WHERE bot_id = :bot_id AND state IN ('SEEN', 'WAITING_SPACE');

-- name: upload_received
-- From the receipt of the upload, if there is one. received_at: content of an earlier bot's message has the same
-- origin, but an earlier receipt.
UPDATE uploads u SET state = 'RECEIVED', reason = NULL, received_at = clock_timestamp(),
    source_id = r.source_id, duplicate = r.duplicate
FROM receipts r
WHERE u.upload_id = :upload_id AND r.origin = :origin AND starts_with(r.origin, 'telegram:')
  AND r.received_at >= u.seen_at
RETURNING u.source_id;

-- name: upload_waits!
-- The upload is tried again later. The state WAITING_SPACE is shown to the sender.
UPDATE uploads SET state = :state, reason = :reason, tries = tries + :tries,
    next_try_at = clock_timestamp() + :seconds::float8 * interval '1 second'
WHERE upload_id = :upload_id AND state IN ('SEEN', 'WAITING_SPACE');

-- name: upload_ended!
UPDATE uploads SET state = :state, reason = :reason WHERE upload_id = :upload_id AND state IN ('SEEN', 'WAITING_SPACE');

-- name: live_announcements
-- Groups that may have a message to send or edit; closed: also those in which the outcome of a file may still
-- improve.
SELECT a.announcement_id, a.chat_id, a.user_id, a.closed_at IS NOT NULL AS is_closed,
       clock_timestamp() AS as_of, files.*, (
    SELECT coalesce(jsonb_object_agg(page, jsonb_build_object('message_id', message_id, 'text', text)), '{}')
    FROM announcement_messages m WHERE m.announcement_id = a.announcement_id
) AS pages
FROM announcements a CROSS JOIN LATERAL (
    SELECT min(u.message_id) AS first_message,
           extract(epoch FROM clock_timestamp() - max(u.seen_at))::float8 AS quiet_sec,
           jsonb_agg(jsonb_build_object(
               'name', u.file_name, 'state', u.state, 'reason', u.reason, 'duplicate', u.duplicate,
               'size_bytes', u.size_bytes, 'batch_id', f.batch_id, 'batch_status', b.status,
               'held', b.held_at IS NOT NULL, 'outcome', f.status,
               'error', f.error, 'messages', f.messages, 'source_id', u.source_id, 'new', f.rows_new,
               'changed', f.rows_changed, 'known', f.rows_same) ORDER BY u.upload_id) AS files
    FROM uploads u LEFT JOIN batch_files f USING (source_id) LEFT JOIN batch_processing b USING (batch_id)
    WHERE u.announcement_id = a.announcement_id
) files
WHERE a.bot_id = :bot_id AND NOT a.is_settled AND a.given_up IS NULL AND files.files IS NOT NULL
  AND (a.closed_at IS NULL OR :closed AND a.created_at > clock_timestamp() - interval '30 days')
ORDER BY a.announcement_id;

-- name: sending_message!
INSERT INTO announcement_messages (announcement_id, page) VALUES (:announcement_id, :page)
ON CONFLICT (announcement_id, page) DO UPDATE SET sending_at = clock_timestamp();

-- name: message_sent!
UPDATE announcement_messages SET message_id = :message_id, text = :text, sent_at = clock_timestamp()
WHERE announcement_id = :announcement_id AND page = :page;

-- name: close_announcement!
-- Not if another upload has joined the group since it was read.
UPDATE announcements a SET closed_at = coalesce(closed_at, clock_timestamp()), is_settled = :is_settled
WHERE announcement_id = :announcement_id
  AND NOT EXISTS (SELECT FROM uploads u WHERE u.announcement_id = a.announcement_id AND u.seen_at > :as_of);

-- name: move_announcements!
-- To another chat, where the messages of this one cannot be edited.
WITH moved AS (
    UPDATE announcements SET chat_id = :to WHERE (bot_id, chat_id) = (:bot_id, :chat_id) RETURNING announcement_id
)
DELETE FROM announcement_messages WHERE announcement_id IN (SELECT announcement_id FROM moved);

-- name: give_up_announcement!
UPDATE announcements SET given_up = :reason, closed_at = coalesce(closed_at, clock_timestamp())
WHERE announcement_id = :announcement_id;

-- name: reactions_due
-- A reaction is the receipt of a document that is stored here. A few of each chat at a time.
SELECT upload_id, chat_id, message_id FROM (
    SELECT *, row_number() OVER (PARTITION BY chat_id ORDER BY upload_id) AS turn FROM uploads
    WHERE bot_id = :bot_id AND state = 'RECEIVED' AND reacted_at IS NULL
      AND received_at > clock_timestamp() - interval '1 day') due
WHERE turn <= :each ORDER BY turn, upload_id;

-- name: reacted!
UPDATE uploads SET reacted_at = clock_timestamp() WHERE upload_id = :upload_id;

-- name: open_uploads_of_user
-- Uploads whose outcome is still open; of one chat if chat_id is not NULL.
SELECT u.file_name AS name, u.state, u.reason, u.duplicate, u.size_bytes, f.batch_id, b.status AS batch_status,
       b.held_at IS NOT NULL AS held, f.status AS outcome, f.error, f.messages
FROM uploads u LEFT JOIN batch_files f USING (source_id) LEFT JOIN batch_processing b USING (batch_id)
WHERE u.bot_id = :bot_id AND u.user_id = :user_id AND (:chat_id::bigint IS NULL OR u.chat_id = :chat_id)
  AND u.state NOT IN ('REFUSED', 'FAILED') AND (b.status IS NULL OR b.status NOT IN ('COMPLETED', 'FAILED'))
  AND u.seen_at > clock_timestamp() - interval '30 days'
ORDER BY u.upload_id;

-- name: count_ended_of_user
SELECT count(*) AS ended
FROM uploads u LEFT JOIN batch_files f USING (source_id) LEFT JOIN batch_processing b USING (batch_id)
WHERE u.bot_id = :bot_id AND u.user_id = :user_id AND (:chat_id::bigint IS NULL OR u.chat_id = :chat_id)
  AND (u.state IN ('REFUSED', 'FAILED') OR b.status IN ('COMPLETED', 'FAILED'))
  AND u.seen_at > clock_timestamp() - interval '30 days';

-- name: batches_of_user
-- The newest batches with files of a user, and the numbers of his files in each.
SELECT b.batch_id, lower(b.status) AS status, b.held_at IS NOT NULL AS held, count(*) AS files
FROM uploads u JOIN batch_files f USING (source_id) JOIN batch_processing b USING (batch_id)
WHERE u.bot_id = :bot_id AND u.user_id = :user_id AND (:chat_id::bigint IS NULL OR u.chat_id = :chat_id)
  AND u.seen_at > clock_timestamp() - interval '30 days'
GROUP BY b.batch_id ORDER BY b.batch_id DESC LIMIT :limit;

-- name: forget_uploads
-- Of source files that retention has removed, and of documents that were never received. In a private chat the id
-- of the chat is that of the user, so rows are deleted, and receipts lose their origin.
DELETE FROM uploads u
WHERE u.state NOT IN ('SEEN', 'WAITING_SPACE') AND u.seen_at < clock_timestamp() - :days::float8 * interval '1 day'
  AND NOT EXISTS (SELECT FROM source_files s WHERE s.source_id = u.source_id AND s.purged_at IS NULL)
RETURNING u.upload_id;

-- name: forget_senders!
-- Rows without an upload, or older than every source file.
WITH announced AS (
    DELETE FROM announcements a WHERE NOT EXISTS (SELECT FROM uploads u WHERE u.announcement_id = a.announcement_id)
      AND created_at < clock_timestamp() - :days::float8 * interval '1 day'
), strangers AS (
    DELETE FROM bot_strangers WHERE answered_at < clock_timestamp() - :days::float8 * interval '1 day'
), updates AS (
    DELETE FROM bot_updates WHERE received_at < clock_timestamp() - :days::float8 * interval '1 day'
)
UPDATE receipts r SET origin = 'telegram' FROM source_files s
WHERE s.source_id = r.source_id AND s.purged_at IS NOT NULL AND starts_with(r.origin, 'telegram:');
