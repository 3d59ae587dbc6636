"""Index the end of stage runs: those of the last hour are found without reading the whole table."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Runs end roughly in row order, so BRIN suits: it needs few pages, and no update when a run ends.
    op.get_bind().exec_driver_sql("CREATE INDEX stage_runs_finished ON stage_runs USING brin (finished_at)")


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX stage_runs_finished")
