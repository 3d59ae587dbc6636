"""Find the stage runs of the last hour among a million without reading them all."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Runs end about in the order of their rows, so BRIN does: a few pages, and no work at each run's end.
    op.get_bind().exec_driver_sql("CREATE INDEX stage_runs_finished ON stage_runs USING brin (finished_at)")


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX stage_runs_finished")
