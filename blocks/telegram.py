"""The Telegram bot: its token, who may use it, and the Bot API server; read by the bot every 20 seconds."""

from __future__ import annotations

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from flows.settings import Settings

#: Name of the block document that the bot reads.
TELEGRAM = "tdp-telegram"


class TelegramBot(Block):
    """The Telegram bot that receives files. A change takes effect within half a minute."""

    _block_type_name = "TDP Telegram bot"
    _block_type_slug = "tdp-telegram"
    _description = "The Telegram bot that receives files. A change takes effect within half a minute."

    token: SecretStr | None = Field(
        default=None,
        title="Token",
        description="From @BotFather; TDP_BOT_TOKEN overrides it. After the first token is entered, restart"
        " `tdp up`.",
    )
    uploaders: list[int] = Field(
        default_factory=list,
        title="Uploaders",
        description="Numeric Telegram ids of users who may send files. The bot replies to other users with"
        " their id.",
    )
    admins: list[int] = Field(
        default_factory=list,
        title="Admins",
        description="Numeric Telegram ids of users who may also use /retry, /timeline and /health, and who"
        " get the conditions of the monitor.",
    )
    api_base_url: str = Field(
        default="https://api.telegram.org",
        title="Address of the Bot API server",
        description="Telegram's own server limits files to 20 MB, a server of your own in local mode to"
        " 2000 MB.",
    )
    local_mode: bool = Field(
        default=False,
        title="Local mode",
        description="The server was started with --local, and its files can be read from this machine.",
    )
    path_map: dict[str, str] = Field(
        default_factory=dict,
        title="Path map",
        description="Folders of the server, and where they are on this machine, for example"
        ' {"/var/lib/telegram-bot-api": "/mnt/bot-api"}. Empty: the same paths.',
    )
    size_limit_mb: float | None = Field(
        default=None,
        title="Largest file (MB)",
        gt=0,
        description="Larger files are refused at once. Empty: 20, or 2000 in local mode.",
    )
    keep_free_gb: float = Field(
        default=1.0,
        title="Keep free (GB)",
        ge=0,
        description="A document is downloaded only if this much disk space stays free.",
    )
    announcements: bool = Field(
        default=True,
        title="Announcements",
        description="Send senders the outcomes of files. Off: it only receives, and answers commands.",
    )

    @classmethod
    def seed(cls, settings: Settings) -> Self:
        """Return the block document of a new installation; a token in the environment stays there."""
        return cls(
            uploaders=sorted(settings.bot_uploaders),
            admins=sorted(settings.bot_admins),
            api_base_url=settings.bot_api_url,
        )
