"""The bot's configuration: the block document ``tdp-telegram``, and the environment where it is empty.

Read over plain HTTP, because the bot also works while the Prefect server is unavailable.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flows.bot.logs import without
from flows.errors import ServiceFailed
from flows.reports.prefect_api import request
from flows.settings import Settings

#: Slug of the block type, and name of its only document.
DOCUMENT = "tdp-telegram"
#: Largest file in bytes that can be downloaded from Telegram's own servers, and from a Bot API server in
#: local mode.
CLOUD_BYTES, LOCAL_BYTES = 20 << 20, 2000 << 20


class Config(msgspec.Struct, frozen=True):
    """The settings of the bot. ``path_map`` maps folders of the Bot API server to folders here."""

    token: str
    api_url: str = "https://api.telegram.org"
    uploaders: frozenset[int] = frozenset()
    admins: frozenset[int] = frozenset()
    local_mode: bool = False
    path_map: dict[str, str] = {}
    max_bytes: int = CLOUD_BYTES
    announces: bool = True
    keep_free_bytes: int = 1 << 30
    #: Whether files that are plainly not exports are refused. Not with an extract program of the operator,
    #: which may accept other formats.
    only_exports: bool = True

    @property
    def bot_id(self) -> int:
        """The bot's numeric id, which its token begins with."""
        return int(self.token.partition(":")[0])

    def redact(self, text: object) -> str:
        """Return ``text`` without the token, as a line that PostgreSQL can store."""
        return " ".join(without(str(text), self.token).replace("\0", "\ufffd").split())


def load_config(settings: Settings) -> Config | None:
    """Return the current configuration; None if neither the environment nor the block has a usable token.

    Raises ServiceFailed if the Prefect server does not respond and the environment has no token.
    """
    try:
        block = _data(settings, DOCUMENT, DOCUMENT)
        command = _data(settings, "tdp-stage-command", "extract").get("command")
    except ServiceFailed:
        if settings.bot_token is None:
            raise
        block, command = {}, None
    env = settings.bot_token.get_secret_value() if settings.bot_token else ""
    token = (env or block.get("token") or "").strip()
    if not token.partition(":")[0].isdigit():
        return None
    is_local = bool(block.get("local_mode"))
    most, megabytes = LOCAL_BYTES if is_local else CLOUD_BYTES, block.get("size_limit_mb")
    return Config(
        token=token,
        api_url=(block.get("api_base_url") or settings.bot_api_url).rstrip("/"),
        uploaders=frozenset(block.get("uploaders") or settings.bot_uploaders),
        admins=frozenset(block.get("admins") or settings.bot_admins),
        local_mode=is_local,
        path_map=block.get("path_map") or {},
        # No more than the server allows: senders would read a limit that does not apply.
        max_bytes=min(most, int(megabytes * (1 << 20))) if megabytes else most,
        announces=block.get("announcements", True),
        keep_free_bytes=int(block.get("keep_free_gb", 1.0) * 1e9),
        only_exports=not command,
    )


def _data(settings: Settings, slug: str, name: str) -> dict[str, Any]:
    """Return the fields of a block document, secrets included; empty if there is none."""
    path = f"/api/block_types/slug/{slug}/block_documents/name/{name}?include_secrets=true"
    try:
        data: dict[str, Any] = msgspec.json.decode(request(settings, "GET", path))["data"]
    except ServiceFailed as error:
        if "responded 404" in str(error):
            return {}
        raise
    return data
