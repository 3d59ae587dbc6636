"""Arrivals are announced before their bytes move; what stays in an inbox or was returned is recorded."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DO $$ BEGIN IF EXISTS (SELECT FROM arrivals) THEN"
        " RAISE EXCEPTION 'files are being received: run process-inbox once, then migrate'; END IF; END $$;"
        "DROP TABLE arrivals, left_files, intake;"
        "DROP INDEX receipts_sighting, batch_files_quarantined;"
        "ALTER TABLE receipts DROP COLUMN sighting;"
        "ALTER TABLE source_files DROP COLUMN returned_at"
    )
