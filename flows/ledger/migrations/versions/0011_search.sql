-- Extensions that search uses if there are any: both are trusted, so the owner of the database may create them.
DO $$
DECLARE
    extension text;
BEGIN
    FOREACH extension IN ARRAY '{unaccent,pg_trgm}'::text[] LOOP
        BEGIN
            EXECUTE 'CREATE EXTENSION IF NOT EXISTS ' || quote_ident(extension);
        EXCEPTION WHEN OTHERS THEN
            NULL; -- a search says which of them are missing
        END;
    END LOOP;
    -- Arabic texts are written with and without their vowel signs and the elongation of words.
    EXECUTE 'CREATE FUNCTION search_plain(value text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN '
        'translate(lower('
        || CASE WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'unaccent')
                THEN 'unaccent(left(value, 50000))' ELSE 'left(value, 50000)' END
        || $arabic$), U&'\0640\064B\064C\064D\064E\064F\0650\0651\0652\0670', '')$arabic$;
END $$;
COMMENT ON FUNCTION search_plain(text) IS
    'A text in small letters, without Arabic vowel signs, and without accents if the extension unaccent is there; at '
    'most 50,000 characters, because a tsvector has at most 1 MB.';

CREATE FUNCTION search_fold(value text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN (
    SELECT plain || CASE
        WHEN plain ~ '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]'
        THEN coalesce((
            SELECT string_agg(' ' || substr(run[1], place, 2), '')
            FROM regexp_matches(
                plain, '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+',
                'g') AS run
            CROSS JOIN generate_series(1, length(run[1])) AS place), '')
        ELSE '' END
    FROM (SELECT search_plain(value) AS plain) AS folded
);
COMMENT ON FUNCTION search_fold(text) IS
    'What search compares: the plain text, and after it all pairs of neighbouring characters of scripts without spaces '
    '(Thai, Lao, Burmese, Khmer, Japanese, Chinese), whose words the parser of PostgreSQL does not find.';

-- One row per message with a text, as it was when it was indexed. Messages that were changed or moved since are
-- found here by what they were: a search always compares the message itself, too.
CREATE TABLE search_documents (
    chat_key   text COLLATE "C" NOT NULL,
    message_id bigint NOT NULL,
    sent_at    timestamptz, -- or the wall clock, where the instant is not certain
    folded     text NOT NULL,
    PRIMARY KEY (chat_key, message_id)
);
CREATE INDEX search_words ON search_documents USING gin (to_tsvector('simple', folded));
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE INDEX search_substrings ON search_documents USING gin (folded gin_trgm_ops);
    END IF;
END $$;

-- Source files with messages that may not be indexed as they are now. Loads only add rows (a source may have
-- several), so they never wait here.
CREATE TABLE search_pending (source_id bigint NOT NULL);
INSERT INTO search_pending SELECT 0 UNION SELECT source_id FROM source_files;
