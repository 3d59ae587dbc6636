-- Kinds of media without a file have their own names; before, they were all 'other'.
CREATE FUNCTION media_kind(media jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN media ->> 'photo' IS NOT NULL THEN 'photo'
                WHEN media ->> 'media_type' IS NOT NULL THEN media ->> 'media_type'
                WHEN media ->> 'file' IS NOT NULL THEN 'file'
                WHEN media ? 'poll' THEN 'poll'
                WHEN media ? 'todo_list' THEN 'todo_list'
                WHEN media ?| ARRAY['location_information', 'place_name'] THEN 'location'
                WHEN media ?| ARRAY['contact_information', 'contact_vcard'] THEN 'contact'
                WHEN media ? 'game_title' THEN 'game'
                WHEN media ? 'invoice_information' THEN 'invoice'
                WHEN media ? 'giveaway_information' THEN 'giveaway'
                WHEN media ? 'giveaway_results' THEN 'giveaway_results'
                WHEN media ? 'paid_stars_amount' THEN 'paid_media'
                WHEN media ?| ARRAY['self_destructing', 'self_destruct_period_seconds'] THEN 'self_destructing'
                ELSE 'other' END;

CREATE OR REPLACE VIEW media_kinds AS
SELECT chat_key, media_kind(media) AS kind, count(*) AS messages,
       coalesce(sum(whole_number(coalesce(media ->> 'photo_file_size', media ->> 'file_size'))), 0)::bigint AS size_bytes
FROM messages WHERE media IS NOT NULL AND type <> 'service'
GROUP BY chat_key, media_kind(media);
COMMENT ON VIEW media_kinds IS
    'Messages with media per chat and kind (photo, file, sticker, video_file, voice_message, poll, location, contact, '
    'game, invoice, giveaway, todo_list, paid_media, …), and the size of their files as far as the export has it.';
