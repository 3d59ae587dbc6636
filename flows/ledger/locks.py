"""Every advisory lock of the project: name spaces, keys and what holding each of them means.

Two-part locks ``(space, key)`` are named here. Locks on the id of a batch or of a flow run have one 64-bit
key, which the SQL functions ``batch_lock`` and ``run_lock`` compute. The view ``held_locks`` lists the locks
of either kind that are held in this database.
"""

from __future__ import annotations

from typing import Final

#: "tdpg": the fence of a stage; the key is that of :func:`fence_key`.
FENCE: Final = 0x74647067
#: "tdpq": the queue before a stage of several slots; held by the run that looks for a free fence.
QUEUE: Final = 0x74647071
#: "tdpb": held by the one yielding run of a stage that may queue.
YIELDING: Final = 0x74647062
#: "tdpi": held while a flow run claims source files, so that two runs claim disjoint batches.
INTAKE: Final = 0x74647069
#: Held by a transaction that loads chats; the key is a bucket of chat keys and names.
LOADING: Final = 0x74640001
#: A single 64-bit key: held while the schema is migrated.
MIGRATION: Final = 0x74647000


def fence_key(position: int, slot: int = 0) -> int:
    """Return the key of one slot of the stage at ``position`` (its column in ``stages``)."""
    return 1000 * position + slot
