"""The name of a sender is that of the latest message."""

from pathlib import Path

from alembic import op

revision = "0017"
down_revision = "0016"

_BEFORE = """
CREATE OR REPLACE VIEW senders AS
SELECT chat_key, sender_id, max(sender_name) AS sender_name, count(*) AS messages,
       min(sent_at) AS first_sent_at, max(sent_at) AS last_sent_at
FROM messages WHERE type <> 'service' AND coalesce(sender_id, sender_name) IS NOT NULL
GROUP BY chat_key, sender_id, CASE WHEN sender_id IS NULL THEN sender_name END
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(_BEFORE)
