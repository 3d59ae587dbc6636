"""What a user would do without the product: unpack, convert with chatpack, COPY; one archive after the other.

usage: python tests/bench/by_hand.py DATABASE_URL ARCHIVE...

chatpack keeps time, sender and text of a message only. Prints the seconds and the number of rows.
"""

from __future__ import annotations

import csv
import importlib
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import psycopg2


def load(url: str, archives: list[Path]) -> int:
    """Load the archives into a new table without an index; return the number of rows."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS by_hand")
        cursor.execute("CREATE TABLE by_hand (sent_at timestamptz, sender text, text text)")
        for archive in archives:
            with tempfile.TemporaryDirectory() as folder:
                with zipfile.ZipFile(archive) as file:
                    file.extractall(folder)
                for export in Path(folder).rglob("result.json"):
                    table = convert(export)
                    with table.open(encoding="utf-8") as rows:
                        cursor.copy_expert("COPY by_hand FROM STDIN (FORMAT csv)", rows)
            connection.commit()
        cursor.execute("SELECT count(*) FROM by_hand")
        (count,) = cursor.fetchone() or (0,)
    return int(count)


def convert(export: Path) -> Path:
    """Write the messages of an export as CSV beside it."""
    table = export.with_suffix(".csv")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for message in importlib.import_module("chatpack").TelegramStreamParser(str(export)):
            writer.writerow([message.timestamp, message.sender, message.content])
    return table


if __name__ == "__main__":
    url, *archives = sys.argv[1:]
    began = time.perf_counter()
    loaded = load(url, [Path(archive) for archive in archives])
    sys.stdout.write(f"{time.perf_counter() - began} {loaded}\n")
