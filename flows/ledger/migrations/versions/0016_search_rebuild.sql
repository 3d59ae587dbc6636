CREATE FUNCTION search_rebuild() RETURNS void LANGUAGE plpgsql AS $rebuild$
DECLARE
    extension text;
BEGIN
    -- Both are trusted, so the owner of the database may create them.
    FOREACH extension IN ARRAY '{unaccent,pg_trgm}'::text[] LOOP
        BEGIN
            EXECUTE 'CREATE EXTENSION IF NOT EXISTS ' || quote_ident(extension);
        EXCEPTION WHEN OTHERS THEN
            NULL; -- a search says which of them are missing
        END;
    END LOOP;
    -- Arabic texts are written with and without their vowel signs and the elongation of words.
    EXECUTE 'CREATE OR REPLACE FUNCTION search_plain(value text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN '
        'translate(lower('
        || CASE WHEN EXISTS (SELECT FROM pg_extension WHERE extname = 'unaccent')
                THEN 'unaccent(left(value, 50000))' ELSE 'left(value, 50000)' END
        || $arabic$), U&'\0640\064B\064C\064D\064E\064F\0650\0651\0652\0670', '')$arabic$;
    TRUNCATE search_documents;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE INDEX IF NOT EXISTS search_substrings ON search_documents USING gin (folded gin_trgm_ops);
    END IF;
    INSERT INTO search_pending SELECT DISTINCT source_id FROM messages;
END $rebuild$;
COMMENT ON FUNCTION search_rebuild() IS
    'Creates the extensions that search uses, if the server has them and the user may create them, defines what depends '
    'on them, empties the index and marks all messages as not indexed. Searches find them all the same.';

-- The earlier migration also marked the source of messages without a source file, whether there were any or not.
TRUNCATE search_pending;
SELECT search_rebuild();
