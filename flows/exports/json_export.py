"""Read Telegram Desktop's JSON: one chat, or a whole account with lists of chats."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from flows.errors import BadInput
from flows.exports import ids
from flows.exports.block import Block
from flows.exports.chat_head import decoded, extra_of, senders_of, topic_of
from flows.exports.damage import LIST, CutOff, Joined, Malformed, Swallowed
from flows.exports.encoding import as_utf8, is_utf8
from flows.exports.reading import Chat, Map, Reading
from flows.exports.repair import Message, add_member, parse
from flows.exports.rows import BATCH, Rows
from flows.exports.scan import LONGEST, Scanner
from flows.exports.signs import are_messages

_CHAT_LISTS = ("chats", "left_chats")
#: Members that only the top level of a whole account has.
_ACCOUNT = {"personal_information", "profile_pictures", "stories", "contacts", "frequent_contacts"}
_ACCOUNT |= {"sessions", "web_sessions", "other_data", *_CHAT_LISTS}
_NO_EXPORT = "not a Telegram export; export again from Telegram Desktop as machine-readable JSON"


class _Person(msgspec.Struct):
    user_id: int | None = None


class _BlockResult(NamedTuple):
    """The result of reading a block: its batch (None without messages) and counts of problems."""

    batch: pa.RecordBatch | None
    without_id: int
    lost: int
    missing_commas: int
    not_utf8: int
    error: CutOff | Malformed | None


def read_json(path: Path, reading: Reading, each: Map = map) -> Iterator[pa.RecordBatch]:
    """Yield the messages of a ``result.json`` in batches of MESSAGES; add chats and problems to ``reading``.

    A file can hold several exports, one after the other (joined by ``cat``) or as elements of one array.
    Memory does not grow with the file. A file that is cut off or becomes invalid is read up to that byte.
    All blocks of a chat but the first are read by ``each``, that is, by other processes if it has any.
    """
    with as_utf8(path) as utf8, utf8.open("rb", buffering=0) as file:
        yield from _JsonReader(Scanner(file), reading, each).batches()


class _JsonReader:
    def __init__(self, scanner: Scanner, reading: Reading, each: Map) -> None:
        self._scanner, self._reading, self._each = scanner, reading, each
        #: In what was read so far; the scanner may be ahead of it.
        self._missing_commas = 0
        self._rows = Rows("json", reading.source)
        self._account: str | None = None
        #: Whether a chat of this document had the ids of 2018-12 to 2021-05.
        self._shifted = False
        #: What is sound of the document, up to this offset; None within a list of messages.
        self._sound: int | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        problems, scanner = self._reading.problems, self._scanner
        if (first := scanner.next_document()) not in (b"{", b"["):
            problems.append(f"{'it is not JSON' if first else 'it is empty'}: {_NO_EXPORT}")
            return
        try:
            yield from self._documents()
            if size := scanner.rest():
                problems.append(f"not read: the {size} bytes behind the end of its JSON")
        except BadInput as error:
            problems.append(str(error))
        if commas := scanner.missing_commas + self._missing_commas:
            problems.append(f"commas missing in its JSON: {commas}")
        if len(self._rows):
            yield self._rows.batch()

    def _documents(self) -> Iterator[pa.RecordBatch]:
        """Read the documents, one after the other; a joined document even if the one before it is cut off."""
        exports = others = 0
        while (first := self._scanner.next_document()) in (b"{", b"["):
            self._sound = self._scanner.offset + 1
            try:
                for _ in self._scanner.elements() if first == b"[" else first:
                    is_export = yield from self._document()
                    exports += is_export
                    others += not is_export
            except (CutOff, Malformed) as error:
                exports += 1
                self._resume(error)
        if not exports:
            raise BadInput(f"its JSON has neither messages nor chats at the top level: {_NO_EXPORT}")
        if others:
            self._reading.problems.append(f"not read: {others} JSON documents in it that are not exports")

    def _resume(self, error: CutOff | Malformed) -> None:
        """Go on at the next document in the file; raise the ``error`` of the last one if there is none."""
        if isinstance(error, Joined):
            at = error.offset
        else:
            behind = error.offset if isinstance(error, Swallowed) else self._sound or self._scanner.offset
            at = self._scanner.document_behind(behind) if self._scanner.may_resume() else -1
        if at < 0:
            raise error
        where = (
            Joined(at) if isinstance(error, CutOff) else f"{error}; read on at byte {at}, where a chat begins"
        )
        self._reading.problems.append(str(where))
        self._scanner.return_to_offset(at)

    def _document(self) -> Generator[pa.RecordBatch, None, bool]:
        """Read one chat or one whole account; return whether it was one of them."""
        if self._scanner.peek() != b"{":
            self._scanner.value()
            return False
        self._account, self._shifted = None, False
        return (yield from self._object(top=True))

    def _object(self, *, top: bool = False) -> Generator[pa.RecordBatch, None, bool]:
        """Read one chat, or at the ``top`` level a whole account; return whether it was one of them."""
        scanner = self._scanner
        chat, members, account, size = None, dict[str, bytes](), False, 0
        for key in scanner.members():
            if key == "messages" and scanner.peek() == b"[":
                if "id" not in members:
                    members |= self._members_after_messages()
                chat = self._chat(members, of_account=not top)
                self._sound = None
                yield from self._messages(chat)
                self._sound = scanner.offset
            elif top and key in _CHAT_LISTS:
                account = True
                yield from self._chats(key)
            elif top and key == "list" and scanner.peek() == b"[":  # the section of the chats alone
                before = len(self._reading.chats)
                yield from self._chats(key)
                account |= len(self._reading.chats) > before
            elif top and key in _ACCOUNT:
                account = True
                self._note_account(key, scanner.value())
            else:
                value = scanner.value()
                add_member(members, key, value)
                size += len(key) + len(value)
                if size > LONGEST:
                    raise Malformed(f"more than {LONGEST >> 20} MiB besides its messages")
        if chat:
            chat.extra = extra_of(chat, members)
            self._reading.not_utf8 += not is_utf8(b"".join(members.values()))
        if (chat or account) and (others := [key for key, value in members.items() if LIST.search(value)]):
            self._reading.problems.append(f"not read: its {', '.join(others)}, which have messages")
        return bool(chat) or account

    def _chats(self, section: str) -> Iterator[pa.RecordBatch]:
        """Read ``{"about": …, "list": […]}``, or only the list."""
        scanner, is_list = self._scanner, True
        for key in scanner.members() if scanner.peek() == b"{" else ("list",):
            if scanner.peek() == b"[":
                yield from self._list_of_chats(section)
                continue
            value = scanner.value()
            is_list &= value == b"null" or (key != "list" and not value.startswith(b"{"))
        if not is_list:
            self._reading.problems.append(f"not read: its {section}, which are not a list")

    def _list_of_chats(self, section: str) -> Iterator[pa.RecordBatch]:
        others = 0
        for first in self._scanner.elements():
            if first == b"{":
                others += not (yield from self._object())
            else:
                others += self._scanner.value() != b"null"
        if others:
            self._reading.problems.append(f"not read: {others} of its {section}, without a list of messages")

    def _messages(self, chat: Chat) -> Iterator[pa.RecordBatch]:
        self._missing_commas += self._scanner.take_missing_commas()
        blocks = self._scanner.blocks()
        for block in blocks:  # until the chat is identified, by its first messages
            found = parse(block)
            if found.members:
                if not chat.type and not are_messages(found.members):
                    self._pass_over(chat, blocks)
                    return
                self._identify(chat, found.members)
            without_id = self._rows.add(chat, found)
            self._count(found.lost, block.missing_commas + found.missing_commas, without_id, found.not_utf8)
            if found.error:
                raise found.error
            if len(self._rows) >= BATCH:
                yield self._rows.batch()
            if found.members:
                break
        for result in self._each(
            partial(_read_block, replace(chat, held=None), self._reading.source), blocks
        ):
            if len(self._rows):
                yield self._rows.batch()
            self._count(result.lost, result.missing_commas, result.without_id, result.not_utf8)
            if result.batch:
                chat.note(result.batch)
                yield result.batch
            if result.error:
                self._scanner.take_missing_commas()  # of blocks behind it, which do not count
                raise result.error

    def _pass_over(self, chat: Chat, blocks: Iterator[Block]) -> None:
        for _ in blocks:
            pass
        self._reading.chats.remove(chat)
        self._reading.problems.append(f"its messages have neither dates nor types of messages: {_NO_EXPORT}")

    def _count(self, lost: int, missing_commas: int, without_id: int, not_utf8: int) -> None:
        self._reading.lost += lost
        self._missing_commas += missing_commas
        self._reading.without_id += without_id
        self._reading.not_utf8 += not_utf8

    def _members_after_messages(self) -> dict[str, bytes]:
        """Return the members of a chat after its messages, which may identify the chat."""
        mark = self._scanner.mark()
        members: dict[str, bytes] = {}
        with suppress(BadInput):
            for _ in self._scanner.blocks():
                pass
            for key in self._scanner.members(inside=True):
                add_member(members, key, self._scanner.value())
        self._scanner.return_to(mark)
        return members

    def _note_account(self, key: str, raw: bytes) -> None:
        if key == "personal_information":
            self._account = ids.peer_id(f"user{decoded(raw, _Person, _Person()).user_id}")

    def _chat(self, members: dict[str, bytes], *, of_account: bool) -> Chat:
        kind, name = (decoded(members.get(key, b"null"), str | None, None) for key in ("type", "name"))
        chat_id = decoded(members.get("id", b"null"), ids.Int64 | None, None, strict=False)
        kind = kind or ids.kind_of(chat_id)
        chat = Chat("", chat_id, kind, name, self._account, "json", of_account=of_account)
        self._identify(chat, [])
        self._reading.chats.append(chat)
        return chat

    def _identify(self, chat: Chat, messages: list[Message]) -> None:
        """Set the chat's key; its first messages show the form of the ids and may reveal the account."""
        kind = chat.type or ""
        senders = senders_of(messages)
        if chat.chat_id is not None:
            if any(map(ids.is_bare_number, senders)):
                old = senders_of([message for message in messages if ids.LATER.isdisjoint(message)])
                self._shifted |= any(map(ids.is_bare_number, old))
            chat.chat_id = ids.bare_chat_id(chat.chat_id, kind, self._shifted)
        if not self._account:
            peers = (ids.peer_id(sender, shifted=self._shifted) for sender in senders)
            chat.account = ids.account_of(kind, chat.chat_id, peers)
        chat.topic = chat.topic or topic_of(chat, messages)
        chat.chat_key = ids.chat_key(kind, chat.chat_id, chat.name, chat.account)
        if ids.is_floating(chat.chat_key):
            chat.chat_key += ids.start_mark(messages)


def _read_block(chat: Chat, source: str, block: Block) -> _BlockResult:
    """Read a block of a chat, maybe in another process; ``chat`` counts for nothing else."""
    found = parse(block)
    rows = Rows("json", source)
    without_id = rows.add(chat, found)
    batch = rows.batch() if len(rows) else None
    commas = block.missing_commas + found.missing_commas
    return _BlockResult(batch, without_id, found.lost, commas, found.not_utf8, found.error)
