-- A quarantined file is dropped or returned by an operator; from then on it does not wait for a decision.
ALTER TABLE source_files ADD COLUMN dropped_at timestamptz; -- when an operator dropped the quarantined file
UPDATE source_files s SET dropped_at = purged_at FROM batch_files f
WHERE f.source_id = s.source_id AND f.status = 'QUARANTINED' AND s.purged_at IS NOT NULL AND s.returned_at IS NULL;

-- The outcome of a source file in reports: its status, or the decision of an operator about a quarantined
-- one.
CREATE FUNCTION file_outcome(status text, returned_at timestamptz, dropped_at timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN status IS NULL THEN 'WAITING'
                WHEN status <> 'QUARANTINED' THEN status
                WHEN dropped_at IS NOT NULL THEN 'DROPPED'
                WHEN returned_at IS NOT NULL THEN 'RETURNED'
                ELSE status END;
