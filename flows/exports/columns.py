"""The schema of the rows that an export is read into: two Arrow tables.

Every reader (JSON, HTML) yields these columns, convert writes them as Parquet, store loads them. Columns of
type ``json`` hold a JSON document as text that ``jsonb`` accepts: without NUL, lone surrogates and numbers
outside the range of ``numeric``. A value of the wrong type for its column is kept: the column is null and
``extra`` holds the value under its key.

A chat is identified by its ``chat_key``:

=============================  ==========================================================
``channel3204528972``          channels and supergroups (ids are unique in all of Telegram)
``chat55@user9``               basic groups; the exporting account follows ``@``
``user77@user9``               personal and bot chats: message ids count per account, so the
                               same peer seen from two accounts is two chats
``user9@user9``                saved messages
``replies@user9``, ``verification_codes@user9``
``chat55~1a2b3c4d``, ``user77~1a2b3c4d``, ``replies~1a2b3c4d``, …  if the account is unknown
``html-<16 hex digits>~1a2b3c4d``  if there is no id, as in all HTML: a hash of the chat's name
=============================  ==========================================================

Chats of the last two kinds are *floating*: other people's chats can have the same peer or name, so eight hex
digits after ``~`` identify the first message in the export (:func:`flows.exports.ids.start_mark`; absent if
there is no message). Exports that start at the beginning of a chat share a key; exports that start elsewhere
do not. Store joins floating chats to each other, and to a chat that is identified better, once shared
messages prove that they are the same chat.

``revision`` orders the versions of one message; the greatest wins, whatever the order of loading. It consists
of the second of the last edit (or of sending), the form (json over html, over html without the sender) and a
checksum of the content, and has a fixed width (``001762200628.2.0123456789``), so that every collation orders
it alike.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_utc = pa.timestamp("us", tz="UTC")
_local = pa.timestamp("us")

_chats: list[pa.Field[Any]] = [
    pa.field("chat_key", pa.string(), nullable=False),
    pa.field("chat_id", pa.int64()),  # id without the offset of 2020; null in HTML
    pa.field("type", pa.string()),  # personal_chat, private_supergroup, …; null in HTML
    pa.field("name", pa.string()),  # null for deleted accounts and saved messages
    pa.field("account", pa.string()),  # "user9", the exporting account, if known
    pa.field("form", pa.string(), nullable=False),  # json or html
    pa.field("source", pa.string(), nullable=False),  # entry name of the source file
    pa.field("messages", pa.int64(), nullable=False),  # rows of this chat in this export
    # json: unknown keys of the chat; "topic": the id of the one topic in the export, which has given the name
    pa.field("extra", pa.string()),
    # What this export holds of the chat; an operator's own program may leave these columns out.
    pa.field("ids", pa.binary()),  # of its messages: flows.exports.held.chunks_of
    pa.field("whole", pa.bool_()),  # whether no message is missing between the first and the last one
    pa.field("first_id", pa.int64()),  # of those with a positive id, as the times
    pa.field("last_id", pa.int64()),
    pa.field("first_at", _utc),  # times of sending; null if the instant of a message is not certain
    pa.field("last_at", _utc),
    pa.field("first_local", _local),
    pa.field("last_local", _local),
    pa.field("latest", pa.int64()),  # second of the last message or edit: the export was made after it
    pa.field("topics", pa.int64()),  # topics that were created in it
]
_messages: list[pa.Field[Any]] = [
    pa.field("chat_key", pa.string(), nullable=False),
    pa.field("message_id", pa.int64(), nullable=False),
    pa.field("type", pa.string(), nullable=False),  # message, service, unsupported, or the export's own value
    pa.field("sent_at", _utc),  # null if the instant is not certain
    pa.field("sent_local", _local),  # the exporter's wall clock
    pa.field("edited_at", _utc),
    pa.field("edited_local", _local),
    pa.field("sender_id", pa.string()),  # user1, channel2, chat3; the actor of a service message
    pa.field("sender_name", pa.string()),
    pa.field("action", pa.string()),  # of service messages
    pa.field("text", pa.string(), nullable=False),  # plain text
    pa.field("entities", pa.string()),  # json: list of {type, text, …} over the whole text; null if plain
    pa.field("media", pa.string()),  # json: photo, file, mime_type, poll, contact, location, …
    pa.field("reactions", pa.string()),  # json: list of {type, count, emoji, …}
    pa.field("reply_to_message_id", pa.int64()),
    pa.field("reply_to_peer_id", pa.string()),
    pa.field("forward", pa.string()),  # json: forwarded_from, forwarded_from_id, saved_from, …
    pa.field("service", pa.string()),  # json: members, title, inviter, … of service messages
    pa.field("extra", pa.string()),  # json: all other members of the message
    pa.field("revision", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),  # entry name of the source file
]

CHATS = pa.schema(_chats)
#: The columns that tell what an export holds of a chat.
HELD = (
    *("ids", "whole", "first_id", "last_id", "first_at", "last_at", "first_local", "last_local"),
    *("latest", "topics"),
)
MESSAGES = pa.schema(_messages)
