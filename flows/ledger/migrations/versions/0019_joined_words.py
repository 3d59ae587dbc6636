"""Search: words that a dot, a slash, a hyphen, a plus or an @ joins are found one by one."""

from pathlib import Path

from alembic import op

revision = "0019"
down_revision = "0018"

#: What this migration adds to the function of 0016.
_ADDED = ("'#./-+@', repeat(' ', 19)", "'#', repeat(' ', 14)")


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    """Define words as 0016 did: all messages are indexed again."""
    statements = Path(__file__).with_suffix(".sql").read_text().replace(*_ADDED)
    begin, end = statements.index("ELSE replace(") + len("ELSE "), statements.index(" END\n        $sql$")
    op.get_bind().exec_driver_sql(statements[:begin] + "plain" + statements[end:])
