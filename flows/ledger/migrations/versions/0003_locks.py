"""Define the keys of advisory locks and the view of their holders in one place."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE OR REPLACE VIEW living_backfills AS"
        " SELECT r.flow_run_id, r.batch_id, r.listed_at FROM run_batches r"
        " JOIN pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(r.flow_run_id::text, 1)"
        " WHERE r.from_stage IS NOT NULL;"
        "DROP VIEW advisory_locks;"
        "DROP FUNCTION batch_lock_key, run_lock_key"
    )
