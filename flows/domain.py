"""Names and constants that all parts of the project share, each defined once."""

from __future__ import annotations

import logging
import re
from typing import Any, Literal, get_args

Stage = Literal["extract", "convert", "store"]
#: The stages in processing order.
STAGES: tuple[str, ...] = get_args(Stage)
#: The stages whose programs crash when two copies run at once: at most one run of each may exist.
EXCLUSIVE_STAGES: tuple[str, ...] = ("extract", "convert")

BatchStatus = Literal["QUEUED", "EXTRACTING", "CONVERTING", "STORING", "COMPLETED", "FAILED"]
BATCH_STATUSES: tuple[str, ...] = get_args(BatchStatus)

PROCESS_INBOX, PROCESS_BATCH = "process-inbox", "process-batch"
BACKFILL, MAINTAIN = "backfill", "maintain"
#: All flows of the project; other flows on the same Prefect server are never touched.
FLOW_NAMES = [PROCESS_INBOX, PROCESS_BATCH, BACKFILL, MAINTAIN]
#: The deployments of which the project itself creates runs.
INBOX_DEPLOYMENT, BATCH_DEPLOYMENT = f"{PROCESS_INBOX}/scheduled", f"{PROCESS_BATCH}/adhoc"

#: The application name of the database sessions of processes that check the inbox, and the seconds without a
#: check after which no process counts as checking. A check of a large folder takes minutes.
LOOKING, LOOKED_WITHIN = "tdp arrival", 300.0
UNWATCHED = (
    "No process checks the inbox, so its files are received every five minutes by the schedule of"
    f" {INBOX_DEPLOYMENT}: start `tdp up` or the unit tdp-recovery"
)

#: Where batches run: in their parent's process, or each as its own run on the work pool.
FanOut = Literal["process", "work-pool"]

#: Where Telegram Desktop puts what people sent, in the folder of an export or in that of each chat.
MEDIA_FOLDERS = frozenset({
    "animations", "contacts", "files", "photos", "profile_music", "profile_pictures", "round_video_messages",
    "stickers", "stories", "thumbs", "video_files", "voice_messages",
})  # fmt: skip


class StopReason(str):
    """Why a run is stopped: the message with which its task is cancelled."""

    __slots__ = ()


Log = logging.Logger | logging.LoggerAdapter[Any]


def full_batch_id(given: str) -> str:
    """Return the id of a batch that is given as the lists print it, or by its number: ``42``, ``batch_42``.

    Raises ValueError for anything else.
    """
    number = re.fullmatch(r"(?:batch_)?(\d{1,12})", given.strip(), re.ASCII)
    if not number:
        raise ValueError(f"{given!r} is neither a batch id such as batch_000042 nor its number")
    return f"batch_{int(number[1]):06d}"
