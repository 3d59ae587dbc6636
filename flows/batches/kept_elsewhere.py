"""Release the originals that runs with ``move`` have kept in other folders than the inbox.

The ledger has such folders among those in which runs left something, so that any later run, and the service
that looks at the inbox, releases their originals.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from flows.batches.kept import KEPT_NAME, kept_in, release_kept
from flows.ledger.session import Session, fetch

_PUT_BACK = "it was changed after it was received, and is there again: run `tdp run` on the folder again"


async def release_elsewhere(session: Session) -> None:
    """Release what is kept in the folders that the ledger names; note there what was put back.

    A folder that this host or user cannot read stays noted.
    """
    for row in await fetch(session, "folders_with_kept", name=KEPT_NAME):
        folder = Path(row["folder"])
        with suppress(OSError):
            back = await asyncio.to_thread(release_kept, folder)
            names = [path.name for path in back]
            await fetch(session, "note_put_back", folder=row["folder"], names=names, reason=_PUT_BACK)
            if not await asyncio.to_thread(kept_in, folder):
                await fetch(session, "forget_kept", folder=row["folder"], name=KEPT_NAME)
