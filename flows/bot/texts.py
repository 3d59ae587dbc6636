"""The texts of the bot, as plain text: file names and reasons are data, never markup.

A file name stands between two invisible characters, a Unicode isolate: a name in Arabic or Hebrew then does
not reorder the rest of its line, and :mod:`flows.bot.context` finds it and marks it as code. Otherwise
Telegram would make a link of ``export.zip``, because .zip is a top-level domain, and a mention of ``@a.zip``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import msgspec

from flows.bot.config import CLOUD_BYTES, Config
from flows.reports import text

#: Longest message in UTF-16 units, with some room below Telegram's 4096.
MESSAGE_UNITS = 3900
#: Longest name and reason of a file in a line.
_NAME, _REASON = 80, 200
#: Refused files that a status message names.
_NAMED = 10
#: Files that a final message names: Telegram ignores marks after the first hundred of a message.
_LINES = 90
#: The characters around a file name: FIRST STRONG ISOLATE and POP DIRECTIONAL ISOLATE.
ISOLATE, END = "\u2068", "\u2069"
#: Categories of characters that are not shown, or that change how others are: control and format characters,
#: separators of lines; except the two joiners that Persian and emoji need.
_HIDDEN, _JOINERS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"}), frozenset("\u200c\u200d")

SEND_FILES = (
    "Send me exports of Telegram Desktop as files (documents): ZIP, 7z, RAR, tar, result.json or"
    " messages.html, any number at once. /help has the details."
)
REPLACED = (
    "You have replaced a file in a message that was sent before. The new file was not received: send it as a"
    " new message."
)
_HELP = """Send me exports of Telegram Desktop as files: ZIP, 7z, RAR, tar (also nested), result.json or \
messages.html. Any number at once; each file at most {limit}.

👍 on a file: it is stored safely, so you need not keep a copy for us.
When all files are done, a message names each of them with its outcome.

An edited message is not read: send a corrected file as a new one.

/status – what happens to your files now
/batches – the batches of your files"""
_HELP_ADMIN = """

For admins:
/batches – all batches (not in groups)
/retry batch_000042 – process a failed batch again
/timeline – the lanes of the last run as a picture
/health – components and conditions"""


class File(msgspec.Struct, frozen=True):
    """One upload and its outcome. ``outcome`` and the numbers are those of batch_files."""

    name: str
    state: str
    reason: str | None
    duplicate: bool | None
    size_bytes: int | None
    batch_id: str | None
    batch_status: str | None
    held: bool
    outcome: str | None
    error: str | None
    messages: int | None
    source_id: int | None = None
    new: int | None = None
    changed: int | None = None
    known: int | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to the file by itself."""
        return self.state in ("REFUSED", "FAILED") or self.batch_status in ("COMPLETED", "FAILED")

    @property
    def is_settled(self) -> bool:
        """Whether the outcome cannot improve any more, by a retry or a backfill."""
        is_stored = self.batch_status == "COMPLETED" and self.outcome == "STORED"
        return self.state in ("REFUSED", "FAILED") or is_stored

    @property
    def kind(self) -> str:
        """The outcome in a word or two."""
        if self.state in ("REFUSED", "FAILED"):
            return "not accepted" if self.state == "REFUSED" else "not received"
        if self.outcome == "QUARANTINED":
            return "quarantined"
        if self.batch_status == "FAILED":
            return "failed"
        return "stored in part" if self.outcome == "PARTIAL" else "stored"


_MARKS = {"stored": "✅", "stored in part": "⚠️", "quarantined": "❌", "failed": "❌"}


def help_text(max_bytes: int, is_admin: bool) -> str:
    """Return the answer to /help."""
    return _HELP.format(limit=_megabytes(max_bytes)) + (_HELP_ADMIN if is_admin else "")


def stranger(user_id: int) -> str:
    """Return the only answer to a user who is on no list."""
    return (
        f"You are not on the list of this bot, so it receives nothing from you. Your numeric id is {user_id}:"
        " an operator can enter it under uploaders. Send your files again then; until then I do not answer."
    )


def too_big(config: Config) -> str:
    """Return why a file was refused, and what the sender can do."""
    ways = (
        f"it is over {_megabytes(config.max_bytes)}, the most that the bot accepts. Split the export, or have"
        " it copied into the inbox folder"
    )
    if config.local_mode or config.max_bytes < CLOUD_BYTES:
        return ways
    return f"{ways}; with a Bot API server of their own the operators can raise the limit to 2 GB"


def status_text(files: Sequence[File]) -> str:
    """Return the status message of a group that is being processed."""
    taken = [file for file in files if file.state == "RECEIVED"]
    lines = [f"Received {len(taken)} of {text.count(len(files), 'file', 'files')}."]
    if waiting := sum(file.state == "WAITING_SPACE" for file in files):
        lines.append(
            f"{text.count(waiting, 'file waits', 'files wait')} for disk space; nothing has to be sent again."
        )
    stages = [f"{count} {word}" for word, count in _progress(taken) if count]
    if stages:
        lines.append("Now: " + ", ".join(stages) + ".")
    refused = [file for file in files if file.state in ("REFUSED", "FAILED")]
    named = fitting([outcome_line(file) for file in refused[:_NAMED]])
    lines += named
    if more := len(refused) - len(named):
        lines.append(f"… and {more} more that were not accepted.")
    return "\n".join(lines)


def _progress(files: Iterable[File]) -> list[tuple[str, int]]:
    counts = dict.fromkeys(
        ("waiting", "in extract", "in convert", "in store", "held by an operator", "done"), 0
    )
    stages = {"EXTRACTING": "in extract", "CONVERTING": "in convert", "STORING": "in store"}
    for file in files:
        word = "held by an operator" if file.held else stages.get(file.batch_status or "", "waiting")
        counts["done" if file.is_ended else word] += 1
    return list(counts.items())


def ended_text(files: Sequence[File], pages: int) -> str:
    """Return the last text of a status message whose group has ended; ``pages``: its final messages."""
    below = "The message below names" if pages == 1 else f"The {pages} messages below name"
    return f"Done: {text.count(len(files), 'file', 'files')}. {below} each with its outcome."


def outcome_pages(files: Sequence[File]) -> list[str]:
    """Return the final messages of a group: each file with its outcome, as few messages as possible."""
    kinds = [file.kind for file in files]
    totals = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds, key=_rank)))
    head = f"{text.count(len(files), 'file', 'files')}: {totals}.{_rows(files)}"
    pages = [head]
    for line in map(outcome_line, files):
        if units(pages[-1]) + units(line) + 1 > MESSAGE_UNITS or pages[-1].count(ISOLATE) == _LINES:
            pages.append(line)
        else:
            pages[-1] += ("\n\n" if pages[-1] == head else "\n") + line
    return pages


def _rows(files: Sequence[File]) -> str:
    """Return the line with the numbers of new, changed and known messages of all these files together."""
    distinct = {file.source_id: file for file in files if file.is_ended}.values()
    counts = [sum(numbers) for numbers in zip(*map(_numbers, distinct), strict=True)]
    return f"\nMessages: {_words(counts)}." if len(distinct) > 1 and any(counts) else ""


def _numbers(file: File) -> tuple[int, int, int]:
    return file.new or 0, file.changed or 0, file.known or 0


def _words(counts: Sequence[int]) -> str:
    named = zip(counts, ("new", "changed", "known already"), strict=True)
    return ", ".join(f"{count:,} {word}" for count, word in named if count)


def _messages(file: File) -> str:
    """Return the number of messages of a stored file, and how many of them are not new."""
    if file.messages is None:
        return ""
    found = text.count(file.messages, "message", "messages")
    return f"{found} ({_words(_numbers(file))})" if file.changed or file.known else found


def _rank(kind: str) -> int:
    order = ("stored", "stored in part", "quarantined", "failed", "not accepted", "not received")
    return order.index(kind)


def outcome_line(file: File) -> str:
    """Return the name of a file and its outcome, with the reason and the numbers of messages."""
    parts = [file.kind]
    if file.kind in ("stored", "stored in part"):
        parts.append(_messages(file))
    reason = file.reason if file.state in ("REFUSED", "FAILED") else file.error
    if file.kind == "failed":  # the error of a batch may name files of other senders: it is for admins
        reason = f"an operator can retry {file.batch_id}"
    line = f"{_MARKS.get(file.kind, '🚫')} {_name(file)}: {', '.join(filter(None, parts))}"
    if reason and file.kind != "stored":
        line += f": {without_hidden(text.short(reason, 400 if file.state == 'REFUSED' else _REASON))}"
    return line + (" (received before)" if file.duplicate else "")


def _name(file: File) -> str:
    return f"{ISOLATE}{without_hidden(text.short(file.name, _NAME))}{END}"


def without_hidden(given: str) -> str:
    """Return text from outside with ``_`` for each character that would be invisible or reorder others."""
    return "".join(
        "_" if unicodedata.category(char) in _HIDDEN and char not in _JOINERS else char for char in given
    )


def fitting(lines: Sequence[str]) -> list[str]:
    """Return the first of the lines that together fit into a message, with room for a few more."""
    found: list[str] = []
    room = MESSAGE_UNITS - 300
    for line in lines:
        room -= units(line) + 1
        if room < 0:
            break
        found.append(line)
    return found


def cut(message: str) -> str:
    """Return a message that Telegram accepts: of one that is too long, the first lines."""
    if units(message) <= MESSAGE_UNITS:
        return message
    lines = [text.short(line, MESSAGE_UNITS // 4) for line in message.splitlines()]
    kept = fitting(lines)
    if more := len(lines) - len(kept):
        kept.append(f"… and {text.count(more, 'more line', 'more lines')}.")
    return "\n".join(kept)


def _megabytes(size: int) -> str:
    return f"{size >> 20:,} MB"  # as Telegram counts them


def units(message: str) -> int:
    """Return the length of a text as Telegram counts it: in UTF-16 units."""
    return len(message.encode("utf-16-le")) // 2
