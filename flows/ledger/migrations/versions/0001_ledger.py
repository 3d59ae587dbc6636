"""The ledger and the tables of chats and messages."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP VIEW living_backfills, stage_overlaps, queue_sizes, stage_timings;"
        "DROP TABLE parked_leases, joined_messages, joined_chats, chat_aliases, chat_clues, messages, chats,"
        " stage_runs, run_batches, batch_files, batch_processing, receipts, source_files, stages;"
        "DROP SEQUENCE batch_number"
    )
