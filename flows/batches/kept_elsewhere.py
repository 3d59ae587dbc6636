"""Release the originals that runs with ``move`` have kept in other folders than the inbox.

The ledger lists such folders among those in which runs left entries, so that any later run, and the service
that checks the inbox, can release the originals.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from flows.batches.kept import KEPT_NAME, MAYBE_KEPT, kept_in, kept_note, release_kept
from flows.batches.source_file import decodable
from flows.ledger.session import Session, fetch
from flows.stages.runner.completion import to_the_end

_PUT_BACK = "it was changed after it was received, and is there again: run `tdp run` on the folder again"


async def note_kept(session: Session, folder: Path) -> None:
    """Note that originals may be hidden in ``folder``, before one is: the run may be interrupted."""
    await fetch(session, "note_kept", folder=decodable(str(folder)), name=KEPT_NAME, reason=MAYBE_KEPT)


async def release_elsewhere(session: Session) -> None:
    """Release what is kept in the folders that the ledger names; note there what was put back.

    A folder that this host or user cannot read stays noted, and does not fail the others.
    """
    for row in await fetch(session, "folders_with_kept", name=KEPT_NAME):
        with suppress(OSError, ValueError):  # ValueError: of a path or name, as UnicodeError
            await to_the_end(_release(session, row["folder"], row["noticed_at"]))


async def _release(session: Session, noted: str, noticed_at: datetime) -> None:
    folder = Path(noted)
    seen = await asyncio.to_thread(kept_in, folder)
    back = await asyncio.to_thread(release_kept, folder)
    names = [decodable(path.name) for path in back]
    await fetch(session, "note_put_back", folder=noted, names=names, reason=_PUT_BACK)
    kept = await asyncio.to_thread(kept_note, folder)
    if seen and not kept:
        await fetch(session, "forget_kept", folder=noted, name=KEPT_NAME, noticed_at=noticed_at)
        return
    # A folder in which none is seen may be another one for now: its file system is not mounted, or it is of
    # another host. Its note stays as long as the runs of its time are kept in Prefect.
    reason = kept.get(folder / KEPT_NAME, MAYBE_KEPT)
    await fetch(session, "say_what_is_kept", folder=noted, name=KEPT_NAME, reason=reason)
