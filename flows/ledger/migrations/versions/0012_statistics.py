"""Views of statistics: messages per day and hour, senders, kinds of media."""

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP VIEW media_kinds, senders, messages_per_hour, messages_per_day")
