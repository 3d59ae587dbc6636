-- The comments below explain the words separated, phrase and vector. The parser of PostgreSQL finds no words
-- in scripts without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
DO $define$
DECLARE
    unspaced text := '\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf'
        '\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff';
BEGIN
    -- The parser takes < & > and what is between them for tags and entities, which are not words. translate
    -- takes as long as the parser, so most texts do without.
    EXECUTE replace(replace($sql$
        CREATE FUNCTION search_separated(plain text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
        CASE WHEN plain ~ '[@#]'
             THEN regexp_replace(
                 regexp_replace(translate(plain, '#', repeat(' ', 14)), '([@]+)', ' \1 ', 'g'),
                 '([@])', '\1 \1 \1', 'g')
             ELSE plain END
        $sql$, '@', unspaced), '#', '<&>、。，：；！？「」（）');
    -- A run that begins or ends the phrase may continue in the text: there it is compared without its ends.
    EXECUTE replace($sql$
        CREATE FUNCTION search_phrase(plain text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
        regexp_replace(regexp_replace(search_separated(plain), '^\s*[@] [@] ', ''), ' [@] [@]\s*$', '')
        $sql$, '@', unspaced);
END $define$;
COMMENT ON FUNCTION search_separated(text) IS
    'The plain text, in which each run of characters of scripts without spaces stands apart from its neighbours, as '
    'characters and pairs of neighbouring characters in turns: abc becomes a a ab b bc c c.';
COMMENT ON FUNCTION search_phrase(text) IS
    'What a separated text contains, one word after the other, if the plain text contains this plain text.';

CREATE FUNCTION search_vector(plain text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_tsvector('simple', search_separated(plain));
COMMENT ON FUNCTION search_vector(text) IS 'The words of a plain text and their positions.';

DROP INDEX search_words;
DROP FUNCTION search_fold(text);
ALTER TABLE search_documents RENAME folded TO plain;
TRUNCATE search_documents;
CREATE INDEX search_words ON search_documents USING gin (search_vector(plain));

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
        CREATE INDEX IF NOT EXISTS search_substrings ON search_documents USING gin (plain gin_trgm_ops);
    END IF;
    INSERT INTO search_pending SELECT DISTINCT source_id FROM messages;
END $rebuild$;
COMMENT ON FUNCTION search_rebuild() IS
    'Creates the extensions that search uses, if the server has them and the user may create them, defines what depends '
    'on them, empties the index and marks all messages as not indexed. Searches find them all the same.';

-- The earlier migration also marked the source of messages without a source file, whether there were any or not.
TRUNCATE search_pending;
SELECT search_rebuild();
