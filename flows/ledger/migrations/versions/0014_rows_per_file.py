"""New, changed and known messages of each source file."""

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "ALTER TABLE batch_files DROP COLUMN rows_new, DROP COLUMN rows_changed, DROP COLUMN rows_same"
    )
