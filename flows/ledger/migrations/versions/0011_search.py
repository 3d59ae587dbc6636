"""Search: documents and their indexes, apart from the messages, so that loads do not maintain them."""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP TABLE search_pending, search_documents; DROP FUNCTION search_fold(text), search_plain(text)"
    )
