"""Leases are no longer left in the ledger; a stage run says where its work is and by what lock it is
known."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE TABLE parked_leases ("
        " stage text NOT NULL REFERENCES stages, slot integer NOT NULL, lease_id uuid NOT NULL,"
        " taken_at timestamptz NOT NULL, PRIMARY KEY (stage, slot));"
        "DROP FUNCTION stage_status, stage_free_since;"
        "ALTER TABLE stage_runs DROP COLUMN place, DROP COLUMN work_lock"
    )
