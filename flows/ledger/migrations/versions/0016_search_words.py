"""Search: scripts without spaces beside others; it can be rebuilt when extensions were installed later."""

from pathlib import Path

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    """Define search as 0011 did: all messages are indexed again."""
    op.get_bind().exec_driver_sql(
        "DROP TABLE search_pending, search_documents;"
        "DROP FUNCTION search_rebuild(), search_vector(text), search_phrase(text), search_separated(text),"
        " search_plain(text)"
    )
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0011_search.sql").read_text())
