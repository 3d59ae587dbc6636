"""Read Telegram Desktop's JSON: one chat, or a whole account with lists of chats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from flows.errors import BadInput
from flows.exports import ids
from flows.exports.parallel import Processors, parallel_map
from flows.exports.reading import Chat, Reading
from flows.exports.repair import Message, parse, repaired
from flows.exports.rows import BATCH, Rows
from flows.exports.scan import CHUNK, LONGEST, Block, Malformed, Scanner

_CHAT_LISTS = ("chats", "left_chats")
#: Members that only the top level of a whole account has.
_ACCOUNT = {"personal_information", "profile_pictures", "stories", "contacts", "frequent_contacts"}
_ACCOUNT |= {"sessions", "web_sessions", "other_data", *_CHAT_LISTS}
_NO_EXPORT = "not a Telegram export; export again from Telegram Desktop as machine-readable JSON"
_SHIFTED = 1 << 32
#: Readers are forked only after this number of blocks of a chat, and if this number of bytes of the file is
#: left: a fork costs more than it gains in a short chat.
_BLOCKS_BEFORE_FORK = 3
_BYTES_WORTH_FORK = 4 * CHUNK
#: Blocks that forked readers read; then idle processors are counted again.
_BLOCKS_PER_FORK = 64


class _Person(msgspec.Struct):
    user_id: int | None = None


class _BlockResult(NamedTuple):
    """The result of reading a block: its batch (None without messages) and counts of problems."""

    batch: pa.RecordBatch | None
    without_id: int
    lost: int
    missing_commas: int


def read_json(path: Path, reading: Reading, processors: Processors | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the messages of a ``result.json`` in batches of MESSAGES; add chats and problems to ``reading``.

    Memory does not grow with the file. A file that is cut off or becomes invalid is read up to that byte.
    Long chats are read on all idle ``processors``.
    """
    with path.open("rb", buffering=0) as file:
        yield from _JsonReader(path, Scanner(file), reading, processors).batches()


class _JsonReader:
    def __init__(self, path: Path, scanner: Scanner, reading: Reading, processors: Processors | None) -> None:
        self._path, self._scanner, self._reading, self._processors = path, scanner, reading, processors
        self._size = path.stat().st_size
        self._rows = Rows("json", reading.source)
        self._account: str | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            if (first := self._scanner.peek()) != b"{":
                raise BadInput(f"{'it is not JSON' if first else 'it is empty'}: {_NO_EXPORT}")
            yield from self._object(top=True)
        except BadInput as error:
            self._reading.problems.append(str(error))
        if commas := self._scanner.missing_commas:
            self._reading.problems.append(f"commas missing in its JSON: {commas}")
        if len(self._rows):
            yield self._rows.batch()

    def _object(self, *, top: bool = False) -> Iterator[pa.RecordBatch]:
        """Read one chat, or at the ``top`` level a whole account, which has lists of chats."""
        scanner = self._scanner
        chat, members, account, size = None, dict[str, bytes](), False, 0
        for key in scanner.members():
            if key == "messages" and scanner.peek() == b"[":
                if "id" not in members:
                    members |= self._members_after_messages()
                chat = self._chat(members)
                yield from self._messages(chat)
            elif top and key in _CHAT_LISTS and scanner.peek() == b"{":
                account = True
                yield from self._chats()
            elif top and key in _ACCOUNT:
                account = True
                self._note_account(key, scanner.value())
            else:
                members[key] = scanner.value()
                size += len(key) + len(members[key])
                if size > LONGEST:
                    raise Malformed(f"more than {LONGEST >> 20} MiB besides its messages")
        if chat:
            chat.extra = _extra(chat, members)
        elif top and not account:
            raise BadInput(f"its JSON has neither messages nor chats at the top level: {_NO_EXPORT}")

    def _chats(self) -> Iterator[pa.RecordBatch]:
        scanner = self._scanner
        for key in scanner.members():
            if key != "list" or scanner.peek() != b"[":
                scanner.value()
                continue
            for first in scanner.elements():
                if first == b"{":
                    yield from self._object()
                else:
                    scanner.value()

    def _messages(self, chat: Chat) -> Iterator[pa.RecordBatch]:
        identified = False
        blocks = self._scanner.blocks()
        for number, block in enumerate(blocks, 1):
            found = parse(block)
            if found.members and not identified:
                self._identify(chat, found.members)
                identified = True
            self._reading.lost += found.lost
            self._scanner.missing_commas += found.missing_commas
            self._reading.without_id += self._rows.add(chat, found)
            if len(self._rows) >= BATCH:
                yield self._rows.batch()
            left = self._size - self._scanner.offset
            if identified and number >= _BLOCKS_BEFORE_FORK and left >= _BYTES_WORTH_FORK:
                yield from self._in_parallel(chat, islice(blocks, _BLOCKS_PER_FORK))

    def _in_parallel(self, chat: Chat, blocks: Iterator[Block]) -> Iterator[pa.RecordBatch]:
        """Read these blocks of an identified chat with forked readers, if there are idle processors."""
        if not self._processors or not (readers := self._processors.idle()):
            return
        if len(self._rows):
            yield self._rows.batch()
        self._processors.stop_threads()
        read_block = partial(_read_block, chat, self._reading.source)
        for result in parallel_map(readers, blocks, read_block, self._reopen):
            self._reading.lost += result.lost
            self._scanner.missing_commas += result.missing_commas
            self._reading.without_id += result.without_id
            if result.batch:
                chat.messages += result.batch.num_rows
                yield result.batch

    def _reopen(self) -> None:
        self._scanner.continue_with(self._path.open("rb", buffering=0))

    def _members_after_messages(self) -> dict[str, bytes]:
        """Return the members of a chat after its messages, which may identify the chat."""
        mark = self._scanner.mark()
        members: dict[str, bytes] = {}
        with suppress(BadInput):
            for _ in self._scanner.blocks():
                pass
            for key in self._scanner.members(inside=True):
                members[key] = self._scanner.value()
        self._scanner.return_to(mark)
        return members

    def _note_account(self, key: str, raw: bytes) -> None:
        if key == "personal_information":
            self._account = ids.peer_id(f"user{_decoded(raw, _Person, _Person()).user_id}")

    def _chat(self, members: dict[str, bytes]) -> Chat:
        kind, name = (_decoded(members.get(key, b"null"), str | None, None) for key in ("type", "name"))
        chat_id = _decoded(members.get("id", b"null"), ids.Int64 | None, None)
        chat = Chat("", chat_id, kind, name, self._account, "json")
        self._identify(chat, [])
        self._reading.chats.append(chat)
        return chat

    def _identify(self, chat: Chat, messages: list[Message]) -> None:
        """Set the chat's key; its first messages show the form of the ids and may reveal the account."""
        kind = chat.type or ""
        senders = _senders(messages)
        if chat.chat_id is not None:
            shifted = any(isinstance(sender, int) and sender > _SHIFTED for sender in senders)
            chat.chat_id = ids.bare_chat_id(chat.chat_id, kind, shifted)
        if not self._account:
            chat.account = ids.account_of(kind, chat.chat_id, map(ids.peer_id, senders))
        chat.chat_key = ids.chat_key(kind, chat.chat_id, chat.name, chat.account)
        if ids.is_floating(chat.chat_key):
            chat.chat_key += ids.start_mark(messages)


def _read_block(chat: Chat, source: str, block: Block) -> _BlockResult:
    """Read a block in this process or a forked one; ``chat`` is not changed."""
    found = parse(block)
    rows = Rows("json", source)
    without_id = rows.add(replace(chat), found)
    return _BlockResult(rows.batch() if len(rows) else None, without_id, found.lost, found.missing_commas)


def _senders(messages: list[Message]) -> set[int | str | None]:
    raws = {bytes(message[key]) for message in messages for key in ("from_id", "actor_id") if key in message}
    return {_decoded(raw, int | str | None, None) for raw in raws}


def _decoded(raw: bytes, kind: Any, default: Any) -> Any:
    try:
        return msgspec.json.decode(repaired(raw) or b"null", type=kind)
    except msgspec.DecodeError:
        return default


def _extra(chat: Chat, members: dict[str, bytes]) -> str | None:
    """Return the members of a chat that its columns do not hold, as a JSON object; None if there are none."""
    columns = {"id": chat.chat_id, "type": chat.type, "name": chat.name}
    found = {key: repaired(raw) for key, raw in members.items() if columns.get(key) is None}
    kept = {
        key: msgspec.Raw(raw) for key, raw in found.items() if raw and (key not in columns or raw != b"null")
    }
    return msgspec.json.encode(kept).decode() if kept else None
