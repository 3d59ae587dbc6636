-- What the last store of a source file did with its messages, as stage_runs.counts has it of the whole batch.
ALTER TABLE batch_files
    ADD COLUMN rows_new     bigint, -- messages that no other source file had brought
    ADD COLUMN rows_changed bigint, -- messages of which another version was stored
    ADD COLUMN rows_same    bigint; -- the others: the same or a greater revision is stored
