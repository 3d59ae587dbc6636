"""All advisory locks of the project: their key spaces and keys, and what each lock means.

Locks with two 32-bit keys ``(space, key)`` are defined here. Locks on the id of a batch or of a flow run have
one 64-bit key, computed by the SQL functions ``batch_lock_key`` and ``run_lock_key``. The view
``advisory_locks`` lists the locks of both kinds in this database, held or awaited.
"""

from __future__ import annotations

from typing import Final

#: "tdpg": the fence of a stage; the key is :func:`fence_key`.
FENCE: Final = 0x74647067
#: "tdpq": the queue for a stage with several slots; held by the run that is looking for a free fence.
QUEUE: Final = 0x74647071
#: "tdpb": held by the only yielding run that may queue for a stage.
YIELDING: Final = 0x74647062
#: "tdpi": held while a flow run claims source files or lists batches, so that claims are disjoint.
INTAKE: Final = 0x74647069
#: "tdps": held by the home whose Prefect server grants the limits of this ledger, while it runs.
SERVER: Final = 0x74647073
#: "tdpt": held by the process that polls a Telegram bot; the key is a hash of the bot's id.
BOT: Final = 0x74647074
#: Held by a transaction that loads chats; the key is a hash bucket of chat keys and names.
LOADING: Final = 0x74640001
#: A 64-bit key: held while the schema is migrated.
MIGRATION: Final = 0x74647000
#: A 64-bit key: held by a transaction that indexes messages for search.
INDEXING: Final = 0x74647001


def fence_key(position: int, slot: int = 0) -> int:
    """Return the fence key of a slot of the stage at ``position`` (column of ``stages``)."""
    return 1000 * position + slot
