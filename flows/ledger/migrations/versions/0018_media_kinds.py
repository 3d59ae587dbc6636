"""Kinds of media without a file have their own names."""

from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    statistics = Path(__file__).with_name("0012_statistics.sql").read_text()
    before = statistics[statistics.index("CREATE VIEW media_kinds") :]
    op.get_bind().exec_driver_sql(before.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
    op.get_bind().exec_driver_sql("DROP FUNCTION media_kind")
