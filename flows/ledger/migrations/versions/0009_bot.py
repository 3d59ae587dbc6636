"""Uploads of users to the Telegram bot, and the messages of the bot about them."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DO $$ BEGIN IF EXISTS (SELECT FROM uploads WHERE state IN ('SEEN', 'WAITING_SPACE')) THEN"
        " RAISE EXCEPTION 'uploads are being received: let the bot run until `tdp bot status` has none,"
        " then migrate'; END IF; END $$;"
        "DROP INDEX receipts_telegram;"
        "DROP TABLE announcement_messages, uploads, announcements, bot_strangers, bot_updates, bots"
    )
