"""A batch can be held: no run processes it until an operator resumes it, retries its run or backfills it.

And the status of a batch follows its stage runs: QUEUED while none is at work.
"""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP TRIGGER batch_waits ON stage_runs; DROP FUNCTION queue_batch_of_ended_stage_run;"
        "ALTER TABLE batch_processing DROP COLUMN held_at, DROP COLUMN held_because, DROP COLUMN resumed_at"
    )
