"""Write the corpus as seeds for a fuzzer: ``python seeds.py archives|json|html FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from archive_cases import ARCHIVES
from cases import Chat
from export_cases import EXPORTS
from odd_cases import ODD

#: Bytes of the largest seed; larger ones slow a fuzzer down.
LARGEST = 64 << 10


def main(target: str, folder: Path) -> None:
    """Write the small files; for a reader of exports only those of its form."""
    for number, case in enumerate([*ARCHIVES, *ODD] if target == "archives" else EXPORTS):
        data = case.make(Chat(number))
        is_html = data.lstrip().startswith(b"<")
        if len(data) <= LARGEST and (target == "archives" or is_html == (target == "html")):
            (folder / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
