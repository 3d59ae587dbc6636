ALTER TABLE batch_processing
    ADD COLUMN held_at      timestamptz,
    ADD COLUMN held_because text,
    ADD COLUMN resumed_at   timestamptz;

-- However a stage run ends, its batch is QUEUED until the next one is at work: between two attempts, and while
-- it waits for the next stage. A trigger, because a run is closed in several ways, also by another process.
CREATE FUNCTION queue_batch_of_ended_stage_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE batch_processing SET status = 'QUEUED'
    WHERE batch_id = NEW.batch_id AND status = stage_status(NEW.stage);
    RETURN NULL;
END $$;
CREATE TRIGGER batch_waits AFTER UPDATE OF finished_at ON stage_runs FOR EACH ROW
    WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION queue_batch_of_ended_stage_run();
