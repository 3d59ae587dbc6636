"""Split blocks of messages into members, and repair JSON that Telegram Desktop is known to write wrongly.

Valid blocks take the fast path: they are compacted, then split into raw members, both in C. Other blocks are
decoded leniently, message by message, and encoded again; the result takes the fast path.

If a key occurs several times in a message or chat, the last value that is not empty counts. Other values that
are not empty are kept in a member ``repeated_keys``: ``{"text": ["the first of two texts"]}``. Objects within
members are searched for such keys only where the message is decoded leniently: it costs a tenth of the time.
"""

from __future__ import annotations

import json
import math
import re
from io import BytesIO
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from flows.errors import BadInput
from flows.exports.damage import Joined, Malformed
from flows.exports.encoding import is_utf8
from flows.exports.scan import Block, Scanner

Message = dict[str, msgspec.Raw]
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_BUFFER = bytearray()
_MESSAGES = msgspec.json.Decoder(list[Message])

#: Control characters as Telegram Desktop wrote them (tdesktop issue 27571).
_BAD_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\x([0-9A-Fa-f]{2})")
#: Paths without quotes, as version 4.1.1 wrote them (tdesktop issue 24961).
_BARE_PATH = re.compile(rb'("document_id"\s*+:\s*+)(?!["\d\[{-]|null\b)([^"\n,}]++)(?=[\n,}])')
#: Decimal commas, as releases of 2018 wrote them in some languages; strings; and commas without a member or
#: element behind them (members deleted by hand).
_ODD_COMMAS = re.compile(
    r'("l(?:at|ong)itude"\s*+:\s*+-?\d++),(?=\d{6}\b)|"[^"\\]*+(?:\\.[^"\\]*+)*+"|,(?=[\s,]*+[}\]])',
    re.DOTALL,
)
#: Zeros where there was something else (a failing disk): a piece with some may begin in one message and end,
#: as valid JSON, in another.
_HOLE = bytes(16)
#: Each message has one such member: how many messages there are in such a piece.
_TYPE = re.compile(rb'"type"\s*+:\s*+"(?:message|service|unsupported)"')
#: The member with further values of keys that occur several times in one object.
REPEATED = "repeated_keys"
#: Characters that PostgreSQL's text does not accept: NUL and lone surrogates.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
#: Maps digits to 0 and exponents to e, to search for numbers outside the range of PostgreSQL's numeric.
_SHAPE = bytes(0x30 if 0x30 <= c < 0x3A else 0x65 if c in b"eE" else 0x20 for c in range(256))
_LETTERS = bytes({*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0x80, 0x100), *b"+-"} - {*b"eE"})
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
    error: Malformed | Joined | None = None


def parse(block: Block) -> Messages:
    """Read the messages of ``block``."""
    try:
        array = _compact(b"[" + block.data + b"]")
        found = _members(array)
    except _INVALID:
        return _one_by_one(block)
    return found if len(_encoded(found.members)) == len(array) else _with_all_values(found)


def add_member(members: dict[str, bytes], key: str, raw: bytes) -> None:
    """Add a member to those of an object that is read member by member."""
    if members.setdefault(key, raw) is raw:
        return
    try:
        found = _object([(key, _lenient(members[key])), (key, _lenient(raw))])
    except _UNREADABLE:
        return
    members[key] = _encode(found[key])
    if REPEATED in found:
        others = _lenient(members.get(REPEATED, b"{}"))
        others.setdefault(key, []).extend(found[REPEATED][key])
        members[REPEATED] = _encode(others)


def repaired(raw: bytes) -> bytes | None:
    """Return one JSON value, compact and repaired if it is invalid; None if it cannot be repaired."""
    try:
        return _compact(raw)
    except _INVALID:
        try:
            return _encode(_lenient(raw))
        except _UNREADABLE:
            return None


_INVALID = (msgspec.DecodeError, pa.ArrowInvalid, RecursionError)
_UNREADABLE = (ValueError, RecursionError)


def _members(array: bytes) -> Messages:
    """Split a compact, valid array into messages. Raises msgspec.DecodeError if an element is no object."""
    return Messages(_MESSAGES.decode(array), _RAWS.decode(array))


def _encoded(value: Any) -> bytearray:
    """Encode a value into a buffer that the next call uses again: less than half the time."""
    _ENCODER.encode_into(value, _BUFFER)
    return _BUFFER


def _with_all_values(found: Messages) -> Messages:
    """Encode the messages again that have a key several times: their members are shorter than the whole."""
    for index, (members, raw) in enumerate(zip(found.members, found.raws, strict=True)):
        size = 1 + sum(len(key.encode()) + len(value) + 4 for key, value in members.items())
        if members and size != len(raw):
            again = _members(_encode([_lenient(raw)]))
            found.members[index], found.raws[index] = again.members[0], again.raws[0]
    return found


def _one_by_one(block: Block) -> Messages:
    found = Messages([], [])
    lost = commas = not_utf8 = 0
    todo = list(reversed(block.pieces()))
    error: Malformed | Joined | None = None
    while todo:
        piece = todo.pop()
        array = b"[" + piece + b"]"
        if _HOLE in piece:
            lost += max(1, len(_TYPE.findall(piece)))
            continue
        try:
            values = _lenient(array)
            messages = [value for value in values if isinstance(value, dict)]
            valid = _members(_encode(messages))
        except _UNREADABLE:
            if (at := _document_in(piece, block.outer)) >= 0:
                error = Joined(block.start + block.data.find(piece) + at)
                todo = [piece[:at]]
                continue
            try:
                elements = _split(piece)
            except Malformed as malformed:
                error = malformed
                break
            commas += len(elements) - 1
            if elements[1:]:
                todo += reversed(elements)
            else:
                lost += max(1, len(_TYPE.findall(piece)))
            continue
        lost += len(values) - len(messages)
        not_utf8 += not is_utf8(piece)
        found.members.extend(valid.members)
        found.raws.extend(valid.raws)
    return found._replace(lost=lost, missing_commas=commas, not_utf8=not_utf8, error=error)


def _document_in(piece: bytes, outer: bytes) -> int:
    """Return where in ``piece`` an object begins that is indented less than messages; -1 if none does."""
    indentation = len(outer.rpartition(b"\n")[2])
    match = re.search(rb'\{\r?\n[ \t]{0,%d}"' % indentation, piece) if outer else None
    return match.start() if match else -1


def _compact(raw: bytes) -> bytes:
    """Return ``raw`` without white space; raise one of _INVALID unless PostgreSQL's jsonb accepts it."""
    compact = msgspec.json.format(raw, indent=-1)  # raises for bad syntax, NaN and lone surrogates
    if b"\\u" in compact and b"\\u0000" in compact:  # the first is rare, and found faster
        raise msgspec.DecodeError("NUL")
    pa.array([compact], pa.binary()).cast(pa.string())  # the fastest check of UTF-8 available
    if _may_be_great(compact.translate(_SHAPE, delete=_LETTERS)):  # a third of the bytes, quickly searched
        shape = compact.translate(_SHAPE, delete=b"+-")
        if _may_be_great(shape) and (_LONG in shape or _GREAT.search(compact)):
            raise msgspec.DecodeError("number too great")
    return compact


def _may_be_great(shape: bytes) -> bool:
    return b"0e00000" in shape or _LONG in shape


def _lenient(raw: bytes) -> Any:
    """Decode JSON with invalid strings and numbers. Raises one of _UNREADABLE."""
    raw = _BAD_ESCAPE.sub(rb"\1\\u00\2", raw)
    raw = _BARE_PATH.sub(lambda match: match[1] + _encode(match[2].decode("utf-8", "replace").strip()), raw)
    text = raw.decode("utf-8", "replace")
    try:
        return _clean(_loads(text))
    except json.JSONDecodeError:
        return _clean(_loads(_ODD_COMMAS.sub(_without_odd_comma, text)))


def _without_odd_comma(match: re.Match[str]) -> str:
    if match[1]:
        return f"{match[1]}."
    return "" if match[0] == "," else match[0]


def _loads(text: str) -> Any:
    return json.loads(
        text,
        strict=False,
        parse_int=_int,
        parse_float=_float,
        parse_constant=_null,
        object_pairs_hook=_object,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    members.clear()
    others: dict[str, list[Any]] = {}
    for key, value in pairs:
        if (before := members.setdefault(key, value)) is value or value in _EMPTY:
            continue
        members[key] = value
        if before != value and before not in _EMPTY:
            others.setdefault(key, []).append(before)
    return members | ({REPEATED: others} if others else {})


_EMPTY: tuple[Any, ...] = (None, "", [], {})


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_TEXT.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) < 1000 else digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _null(_: str) -> None:
    """Decode NaN and Infinity as None."""


def _split(piece: bytes) -> list[bytes]:
    """Split what should be one message into several where the commas between them are missing.

    Raises Malformed if ``piece`` extends beyond its array.
    """
    scanner = Scanner(BytesIO(piece))
    found: list[bytes] = []
    try:
        while scanner.peek() == b"{" or not found:
            found.append(scanner.value())
    except BadInput:
        return [piece]
    if scanner.peek() in (b"]", b"}"):
        raise Malformed("the layout of its messages changes in the middle")
    return found if not scanner.peek() else [piece]
