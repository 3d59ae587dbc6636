"""Originals whose writers may still have them open: hidden for an hour, and put back if they change.

The kernel does not say whether a file of another user is open for writing. Such a file is copied when it has
been quiet for long enough, and the original is renamed, not removed: what a writer that only paused still
writes is in it, and it is received again as the file that it has become: from a folder that is not the inbox,
by the operator's next run on it. Other originals get the same name before they are removed, so that none is
lost if the process dies between the two steps.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Seconds for which an original is kept. Sources are stored for days, so this costs little space.
KEEP_SECONDS = 3600.0
_KEPT = re.compile(r"\.tdp-kept-(\d+)-(\d+)-(.+)", re.DOTALL)
#: Under this name the originals that are kept in a folder are listed.
KEPT_NAME = ".tdp-kept-…"
#: The entry of a folder while it is not known whether originals are kept in it.
MAYBE_KEPT = (
    "received originals may be hidden here: removed an hour after that, or put back if changed by then"
)
#: A folder that is being removed, which changes it; another process may have begun to.
_GONE = ".tdp-gone-"
#: Bytes of the original's name that its hidden name has room for.
_NAME_BYTES = 200


def leave(path: Path, is_same: Callable[[Path], bool], *, keeps: bool) -> bool:
    """Hide the original at ``path``, under a name that says what it was like; remove it unless ``keeps``.

    Returns False, with the path as it was, if what was renamed is not the same any more.
    """
    size, mtime_ns = _measure(path)
    name = os.fsdecode(os.fsencode(path.name)[-_NAME_BYTES:])
    hidden = path.with_name(f".tdp-kept-{size}-{mtime_ns}-{name}")
    if not withdraw(path, hidden, is_same):
        return False
    if not keeps:
        _remove(hidden)
    return True


def release_kept(folder: Path) -> list[Path]:
    """Remove the originals kept in ``folder`` that have not changed for an hour.

    Returns those that have changed, under the names to which they were put back. Several processes may do so
    at once; errors of single files are left to the next call.
    """
    back = []
    for path, found in kept_in(folder):
        with suppress(OSError):
            if _measure(path) != (int(found[1]), int(found[2])):
                back.append(put_back(path, folder / found[3]))
            elif time.time() - path.lstat().st_ctime > KEEP_SECONDS:  # since it was renamed
                _remove(path)
    for path in folder.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)
    return back


def kept_in(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """Return the originals kept in ``folder``, each with the match of its name."""
    with os.scandir(folder) as entries:
        return [(Path(entry.path), found) for entry in entries if (found := _KEPT.fullmatch(entry.name))]


def kept_note(folder: Path) -> dict[Path, str]:
    """Return one entry that explains all originals kept in ``folder``; an empty result if there are none."""
    if not (kept := len(kept_in(folder))):
        return {}
    originals = "1 received original" if kept == 1 else f"{kept:,} received originals"
    return {folder / KEPT_NAME: f"{originals}, removed an hour after that, or put back if changed by then"}


def _remove(hidden: Path) -> None:
    if not hidden.is_dir():
        hidden.unlink()
        return
    gone = hidden.with_name(_GONE + hidden.name.removeprefix(".tdp-kept-"))
    hidden.rename(gone)  # a folder that is removed in part must not count as one that has changed
    shutil.rmtree(gone)


def withdraw(path: Path, to: Path, is_same: Callable[[Path], bool]) -> bool:
    """Rename ``path`` to ``to``; put it back, and return False, unless that is the same as before."""
    path.rename(to)
    if is_same(to):
        return True
    put_back(to, path)
    return False


def put_back(stored: Path, path: Path) -> Path:
    """Move a file back to ``path``, or to a numbered name if another file is there; return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = path if number == 1 else path.with_name(f"{path.stem} ({number}){path.suffix}")
        try:
            target.hardlink_to(stored)
            stored.unlink()
        except FileExistsError:
            number += 1
        except OSError:  # a folder, or no hard links here
            if os.path.lexists(target):
                number += 1
                continue
            shutil.move(stored, target)
            return target
        else:
            return target


def _measure(path: Path) -> tuple[int, int]:
    """Return the bytes of a file, or of the files of a folder, and the time of the last change in ns."""
    inside = (Path(parent, name) for parent, _, names in os.walk(path) for name in names)
    seen = [file.lstat() for file in (inside if path.is_dir() else [path])]
    return sum(each.st_size for each in seen), max((each.st_mtime_ns for each in seen), default=0)
