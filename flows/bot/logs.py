"""The log of the bot: no line of it shows the token, which is part of every URL of the Bot API."""

from __future__ import annotations

import logging
import re
import sys
from types import TracebackType

from flows.reports.visible import make_logs_visible

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_secrets: set[str] = set()


def hide(secret: str) -> None:
    """Replace ``secret`` in all later lines of this process."""
    _secrets.add(secret)


def without(text: str, *secrets: str) -> str:
    """Return ``text`` without the secrets, in any case: the library changes the case of descriptions."""
    for secret in secrets:
        text = re.sub(re.escape(secret), "<token>", text, flags=re.IGNORECASE)
    return text


class _Redacting(logging.Formatter):
    """Formats records and their tracebacks without the secrets."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return without(line, *_secrets)


def set_up() -> None:
    """Log to stderr; what ends the process is logged, too."""
    make_logs_visible()
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("httpx", "httpcore", "telegram"):  # at INFO, httpx logs each URL
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _log_exception


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("flows.bot").critical("The bot ends", exc_info=(kind, error, trace))
