"""Split blocks of messages into members, and repair JSON that Telegram Desktop is known to write wrongly.

Valid blocks take the fast path: they are compacted, then split into raw members, both in C. Other blocks are
decoded leniently, message by message, and encoded again; the result takes the fast path.

If a key occurs several times in a message or chat, the last value that is not empty counts. Other values that
are not empty are kept in a member ``repeated_keys``: ``{"text": ["the first of two texts"]}``. Objects within
members are searched for such keys only where the message is decoded leniently: it costs a tenth of the time.
"""

from __future__ import annotations

import re
from io import BytesIO
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from flows.errors import BadInput
from flows.exports.block import Block
from flows.exports.damage import DOCUMENT, LIST, MESSAGE, CutOff, Joined, Malformed, Swallowed
from flows.exports.encoding import is_utf8
from flows.exports.lenient import REPEATED, encode, lenient, object_of
from flows.exports.scan import Scanner

Message = dict[str, msgspec.Raw]
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_BUFFER = bytearray()
_MESSAGES = msgspec.json.Decoder(list[Message])

#: Zeros where there was something else (a failing disk): a piece with some may begin in one message and end,
#: as valid JSON, in another.
_HOLE = bytes(16)
#: What may stand before and behind a message.
_GAP = b"\0, \t\r\n"
#: Each message has one such member: how many messages there are in such a piece.
_TYPE = re.compile(rb'"type"\s*+:\s*+"(?:message|service|unsupported)"')
#: Maps digits to 0 and exponents to e, to search for numbers outside the range of PostgreSQL's numeric, and
#: for NUL, escaped as a backslash and u0000.
_SHAPE = bytes(
    0x30 if 0x30 <= c < 0x3A else 0x65 if c in b"eE" else c if c in b"\\u" else 0x20 for c in range(256)
)
_LETTERS = bytes({*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0x80, 0x100), *b"+-"} - {*b"eEu"})
_GREAT = re.compile(rb"[\s:,\[-]\d[\d.]*+[eE][+-]?\d{5}")
_LONG = b"0" * 10_000


class Messages(NamedTuple):
    """Messages: the members of each, each as a whole, and the number of unreadable messages (``lost``).

    ``missing_commas`` counts the commas missing between messages, ``not_utf8`` the messages in another
    encoding, whose characters are replaced. ``error``: the array cannot be read any further than these
    messages.
    """

    members: list[Message]
    raws: list[msgspec.Raw]
    lost: int = 0
    missing_commas: int = 0
    not_utf8: int = 0
    error: Malformed | CutOff | None = None


def parse(block: Block) -> Messages:
    """Read the messages of ``block``."""
    try:
        array = _compact(b"".join((b"[", block.data, b"]")))  # in one copy
        found = split(array)
    except _INVALID:
        return _one_by_one(block)
    return found if len(_encoded(found.members)) == len(array) else _with_all_values(found)


def split(array: bytes) -> Messages:
    """Split a compact, valid array into messages. Raises msgspec.DecodeError for any other element."""
    return Messages(_MESSAGES.decode(array), _RAWS.decode(array))


def add_member(members: dict[str, bytes], key: str, raw: bytes) -> None:
    """Add a member to those of an object that is read member by member."""
    if members.setdefault(key, raw) is raw:
        return
    try:
        found = object_of([(key, lenient(members[key])), (key, lenient(raw))])
    except _UNREADABLE:
        return
    members[key] = encode(found[key])
    if REPEATED in found:
        others = lenient(members.get(REPEATED, b"{}"))
        others.setdefault(key, []).extend(found[REPEATED][key])
        members[REPEATED] = encode(others)


def repaired(raw: bytes) -> bytes | None:
    """Return one JSON value, compact and repaired if it is invalid; None if it cannot be repaired."""
    try:
        return _compact(raw)
    except _INVALID:
        try:
            return encode(lenient(raw))
        except _UNREADABLE:
            return None


_INVALID = (msgspec.DecodeError, pa.ArrowInvalid, RecursionError)
_UNREADABLE = (ValueError, RecursionError)


def _encoded(value: Any) -> bytearray:
    """Encode a value into a buffer that the next call uses again: less than half the time."""
    _ENCODER.encode_into(value, _BUFFER)
    return _BUFFER


def _with_all_values(found: Messages) -> Messages:
    """Encode the messages again that have a key several times: their members are shorter than the whole."""
    for index, (members, raw) in enumerate(zip(found.members, found.raws, strict=True)):
        size = 1 + sum(len(key.encode()) + len(value) + 4 for key, value in members.items())
        if members and size != len(raw):
            again = split(encode([lenient(raw)]))
            found.members[index], found.raws[index] = again.members[0], again.raws[0]
    return found


def _one_by_one(block: Block) -> Messages:
    found = Messages([], [])
    lost = commas = not_utf8 = 0
    todo = list(reversed(block.pieces()))
    error: Malformed | CutOff | None = None
    while todo:
        piece = todo.pop()
        if _HOLE in piece:
            whole, broken = _beside_holes(piece)
            todo += reversed(whole)
            lost += _messages_in(broken) if broken else 0
            continue
        try:
            values = lenient(b"[" + piece + b"]")
            messages = [value for value in values if isinstance(value, dict)]
            valid = split(encode(messages))
        except _UNREADABLE:
            if joined := _joined(block, piece):
                error, todo = joined
                continue
            if another := LIST.search(piece):
                error = Malformed("the layout of its messages changes in the middle")
                todo = [piece[: another.start()]]
                continue
            elements, missing = _split(piece)
            commas += missing
            todo += reversed(elements)
            lost += 0 if elements else _messages_in(piece)
            continue
        lost += len(values) - len(messages)
        not_utf8 += not is_utf8(piece)
        found.members.extend(valid.members)
        found.raws.extend(valid.raws)
    return found._replace(lost=lost, missing_commas=commas, not_utf8=not_utf8, error=error)


def _messages_in(piece: bytes) -> int:
    """Return how many messages are lost with ``piece``."""
    return max(1, len(_TYPE.findall(piece)))


def _beside_holes(piece: bytes) -> tuple[list[bytes], bytes]:
    """Return the messages in ``piece`` that are whole beside zeros, and what is broken, joined."""
    parts = [part.strip(_GAP) for part in piece.split(_HOLE)]
    whole = [part for part in parts if MESSAGE.match(part) and _values(part)[1] == b"" and _values(part)[0]]
    return whole, b"".join(part for part in parts if part not in whole)


def _joined(block: Block, piece: bytes) -> tuple[Joined | Swallowed, list[bytes]] | None:
    """Return the error of another document within ``piece``, and what precedes it; None if there is none."""
    if (at := _document_in(piece, block.outer)) < 0:
        return None
    if not block.outer:
        return Swallowed(block.start), [piece[:at]]
    return Joined(block.start + block.data.find(piece) + at), [piece[:at]]


def _document_in(piece: bytes, outer: bytes) -> int:
    """Return where in ``piece`` another document begins; -1 if none does.

    It is an object that is indented less than messages; in a layout without lines, one with messages.
    """
    indentation = len(outer.rpartition(b"\n")[2])
    match = re.search(rb'\{\r?\n[ \t]{0,%d}"' % indentation, piece) if outer else DOCUMENT.search(piece)
    return match.start() if match else -1


def _compact(raw: bytes) -> bytes:
    """Return ``raw`` without white space; raise one of _INVALID unless PostgreSQL's jsonb accepts it."""
    compact = msgspec.json.format(raw, indent=-1)  # raises for bad syntax, NaN and lone surrogates
    pa.array([compact], pa.binary()).cast(pa.string())  # the fastest check of UTF-8 available
    shape = compact.translate(_SHAPE, delete=_LETTERS)  # half of the bytes, quickly searched
    if shape.rfind(b"\\u0000") >= 0 and b"\\u0000" in compact:  # the first is so in few texts
        raise msgspec.DecodeError("NUL")
    if _may_be_great(shape):
        shape = compact.translate(_SHAPE, delete=b"+-")
        if _may_be_great(shape) and (_LONG in shape or _GREAT.search(compact)):
            raise msgspec.DecodeError("number too great")
    return compact


def _may_be_great(shape: bytes) -> bool:
    # In vain, CPython's rfind() takes half of the time of `in`, but for long texts that of their product.
    return shape.rfind(b"0e00000") >= 0 or _LONG in shape


def _split(piece: bytes) -> tuple[list[bytes], int]:
    """Return the messages in an unreadable ``piece``, and how many commas are missing between them.

    There are none if it is one message, which is broken.
    """
    found, behind = _values(piece)
    if found[1:] and not behind:
        return found, len(found) - 1
    if parts := _at_beginnings(piece):
        return parts, 0
    is_last = behind in (b"]", b"}") and found != [piece]  # what follows is the end of the list
    return (found if is_last else []), 0


def _values(piece: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete values of ``piece``, none if one is not, and the first byte behind them."""
    scanner, found = Scanner(BytesIO(piece)), list[bytes]()
    try:
        while scanner.peek() == b"{" or not found:
            found.append(scanner.value())
    except BadInput:
        return [], b""
    return found, scanner.peek()


def _at_beginnings(piece: bytes) -> list[bytes]:
    """Return the messages in ``piece`` if one of them is broken and took others with it, else none."""
    begins = sorted({0, *(match.start() for match in MESSAGE.finditer(piece))})
    if len(begins) < 2:
        return []
    parts = [piece[begin:end].strip(_GAP) for begin, end in pairwise([*begins, len(piece)])]
    last, _ = _values(parts[-1])  # brackets behind it are those of the list
    return [part for part in (*parts[:-1], *(last or parts[-1:])) if part]
