"""The relations that can be exported and read as data frames: their columns, in a stable order.

New columns are added at the end, and no column is renamed or removed without a note in the README. Instants
(``timestamp[us, UTC]``) are null where they are not certain; ``json`` columns hold a JSON document as text.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from flows.ledger.named_sql import sql
from flows.tables.orders import What

_text, _whole, _real = pa.string(), pa.int64(), pa.float64()
_utc, _local = pa.timestamp("us", tz="UTC"), pa.timestamp("us")


MESSAGES: dict[str, pa.DataType] = {
    "chat_key": _text,  # identifies the chat: flows/exports/columns.py
    "chat_name": _text,
    "message_id": _whole,  # unique in its chat
    "type": _text,  # message, service, unsupported
    "sent_at": _utc,
    "sent_local": _local,  # the exporter's wall clock
    "edited_at": _utc,
    "edited_local": _local,
    "sender_id": _text,  # user1, channel2, chat3
    "sender_name": _text,
    "action": _text,  # of service messages
    "text": _text,
    "entities": _text,  # json: the text's parts with their formats
    "media": _text,  # json: photo, file, mime_type, poll, …
    "reactions": _text,  # json
    "reply_to_message_id": _whole,
    "reply_to_peer_id": _text,
    "forward": _text,  # json
    "service": _text,  # json
    "extra": _text,  # json: all other members of the message
    "revision": _text,  # orders the versions of one message
    "source_id": _whole,  # the source file that brought this version
    "missing_since": _whole,  # the source file of the first later export without the message
}
CHATS: dict[str, pa.DataType] = {
    "chat_key": _text,
    "chat_id": _whole,
    "type": _text,  # personal_chat, private_supergroup, public_channel, …
    "name": _text,
    "account": _text,  # the exporting account
    "form": _text,  # json or html
    "extra": _text,  # json
    "source_id": _whole,
}
SENDERS: dict[str, pa.DataType] = {
    "sender_id": _text,  # null: known by name only
    "sender_name": _text,
    "messages": _whole,
    "chats": _whole,
    "first_sent_at": _utc,
    "last_sent_at": _utc,
}
STAGE_RUNS: dict[str, pa.DataType] = {
    "stage_run_id": _whole,
    "batch_id": _text,
    "stage": _text,
    "attempt": _whole,
    "outcome": _text,  # null while it is unfinished
    "host": _text,
    "pid": _whole,
    "slot": _whole,
    "queued_at": _utc,
    "started_at": _utc,
    "finished_at": _utc,
    "wait_sec": _real,
    "duration_sec": _real,
    "files": _whole,
    "bytes_in": _whole,
    "error": _text,
    "flow_run_id": _text,  # of the batch
    "parent_flow_run_id": _text,  # the run that had listed the batch; null: none
}
TIMINGS: dict[str, pa.DataType] = {
    "batch_id": _text,
    "stage": _text,
    "attempts": _whole,
    "failed": _whole,
    "queued_at": _utc,  # of the first attempt
    "finished_at": _utc,  # of the last one
    "wait_sec": _real,  # of all attempts together
    "duration_sec": _real,
    "files": _whole,
    "bytes_in": _whole,
}
COLUMNS: dict[What, dict[str, pa.DataType]] = {
    What.messages: MESSAGES,
    What.chats: CHATS,
    What.senders: SENDERS,
    What.stage_runs: STAGE_RUNS,
    What.timings: TIMINGS,
}


def schema(what: What, columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the Arrow schema of the relation, or of these columns of it in this order.

    Raises ValueError for a column that it does not have.
    """
    known = COLUMNS[what]
    if unknown := [name for name in columns or () if name not in known]:
        raise ValueError(f"{what} has no column {unknown[0]!r}; it has {', '.join(known)}")
    return pa.schema([(name, known[name]) for name in columns or known])


def statement(what: What) -> str:
    """Return the query with all columns and the parameters of a Choice."""
    return sql(f"rows_of_{what.name}").strip().removesuffix(";")
