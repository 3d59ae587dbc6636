"""Views over the JSON columns of messages: topics, reactions, forwards, polls, files."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP VIEW files, polls, forwards, reactions, topics, message_topics;"
        "DROP INDEX messages_topics; DROP FUNCTION whole_number(text)"
    )
