DROP TABLE parked_leases;

ALTER TABLE stage_runs
    ADD COLUMN place     text, -- boot id and pid name space: where the work's processes can be seen
    ADD COLUMN work_lock text; -- the file that is locked until the last process of the work is gone

CREATE FUNCTION stage_status(stage text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE stage WHEN 'extract' THEN 'EXTRACTING' WHEN 'convert' THEN 'CONVERTING' ELSE 'STORING' END;

-- When the latest run of an exclusive stage ended; null for other stages, or while that run is unfinished. A
-- clock that was set back makes no run begin before the one it follows.
CREATE FUNCTION stage_free_since(of_stage text) RETURNS timestamptz LANGUAGE sql STABLE
    RETURN (SELECT CASE WHEN s.exclusive THEN r.finished_at END
            FROM stage_runs r JOIN stages s USING (stage)
            WHERE r.stage = of_stage AND r.started_at IS NOT NULL ORDER BY r.started_at DESC LIMIT 1);
