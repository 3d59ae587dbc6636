"""Quarantined files that an operator has dropped or returned have outcomes of their own in reports."""

from pathlib import Path

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP FUNCTION file_outcome; ALTER TABLE source_files DROP COLUMN dropped_at"
    )
