"""Settings of one installation, read from the environment."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flows.domain import FanOut
from flows.exports.zones import time_zone

#: ``sun_path`` holds 104 bytes on macOS, 108 on Linux; the socket's name and a final NUL count.
_SOCKET_PATH_MAX = 103 - len("/.s.PGSQL.5432")


def checked_zone(name: str) -> str:
    """Return the name of a time zone without spaces around it; it may be empty.

    Raises ValueError if there is no such zone.
    """
    name = name.strip()
    return time_zone(name).key if name else ""


def _is_valid(rest: str) -> bool:
    """Return whether libpq accepts a URL, given without its scheme."""
    from psycopg import ProgrammingError  # late: most settings have no URL
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(f"postgresql://{rest}")
    except ProgrammingError:
        return False
    return True


class Settings(BaseSettings):
    """Addresses, directories, and initial values of what operators later change in the Prefect UI.

    Every field can be set as ``TDP_<NAME>`` in the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix="TDP_", populate_by_name=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Path = Field(
        default=Path(".tdp"),
        description="State directory: database, Prefect home, inbox, sources, work, logs.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="URL of the PostgreSQL database to use instead of the embedded server."
    )
    prefect_database: str = Field(
        default="prefect", description="Name of the Prefect server's database on the same PostgreSQL server."
    )
    server_host: str = Field(default="127.0.0.1", description="Address the Prefect server listens on.")
    server_port: int = Field(default=4200, ge=0, le=65535, description="Port of the Prefect server and UI.")
    monitor_host: str = Field(default="127.0.0.1", description="Address the monitor listens on.")
    monitor_port: int = Field(default=8080, ge=0, le=65535, description="Port of /health and /metrics.")
    auth_string: SecretStr | None = Field(
        default=None,
        description="`user:password` for the Prefect API, and for the monitor if it is not on loopback.",
        validation_alias=AliasChoices(
            "TDP_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
        ),
    )
    batch_size: int = Field(
        default=10,
        ge=1,
        description="Source files per batch.",
        validation_alias=AliasChoices("TDP_BATCH_SIZE", "BATCH_SIZE"),
    )
    window: int = Field(default=8, ge=1, description="Batches in flight per parent run.")
    fan_out: FanOut = Field(
        default="process",
        description="Where batches run: in their parent's process, or each as its own run on the work pool.",
    )
    settle_seconds: float = Field(
        default=2.0,
        ge=0,
        description="Files changed within this time may still be being copied; they are checked again.",
    )
    look_seconds: float = Field(
        default=2.0,
        ge=0,
        description="Seconds between two checks of the inbox; a run is requested if files wait. 0: none is"
        " requested; add a schedule to the deployment process-inbox/scheduled, or start the runs yourself.",
    )
    html_zone: str = Field(
        default="",
        description="Time zone in which HTML exports were made, as an IANA name such as Europe/Berlin.",
    )

    bot_token: SecretStr | None = Field(
        default=None,
        description="Token of the Telegram bot; if neither this nor the block has one, no bot runs.",
    )
    bot_api_url: str = Field(default="https://api.telegram.org", description="Address of the Bot API server.")
    bot_uploaders: Annotated[frozenset[int], NoDecode] = Field(
        default=frozenset(), description="Numeric Telegram ids of those who may send files, comma-separated."
    )
    bot_admins: Annotated[frozenset[int], NoDecode] = Field(
        default=frozenset(), description="Numeric Telegram ids of the bot's admins, comma-separated."
    )

    @field_validator("bot_uploaders", "bot_admins", mode="before")
    @classmethod
    def _split_ids(cls, ids: object) -> object:
        return [part for part in ids.replace(" ", "").split(",") if part] if isinstance(ids, str) else ids

    @field_validator("html_zone")
    @classmethod
    def _check_zone(cls, zone: str) -> str:
        return checked_zone(zone)

    @field_validator("database_url")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url:
            scheme, _, rest = url.get_secret_value().partition("://")
            if scheme.partition("+")[0] not in ("postgresql", "postgres") or not _is_valid(rest):
                raise ValueError(
                    "it is not a URL such as postgresql://user:password@host/database"
                    " (special characters: %XX)"
                )
            if "password=" in rest.partition("?")[2]:
                raise ValueError("write the password before the @: as a parameter it would be shown in logs")
        return url

    @property
    def root(self) -> Path:
        """The absolute state directory."""
        return self.home.expanduser().absolute()

    @property
    def postgres_data(self) -> Path:
        """Data directory of the embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def postgres_socket(self) -> Path:
        """Directory of the embedded PostgreSQL's socket: its data directory unless that path is too long."""
        if len(bytes(self.postgres_data)) <= _SOCKET_PATH_MAX:
            return self.postgres_data
        return Path("/tmp") / f"tdp-{sha256(bytes(self.root)).hexdigest()[:16]}"  # noqa: S108 - short, checked

    @property
    def embedded_url(self) -> str:
        """URL (libpq) of the ledger's database in the embedded PostgreSQL, whether it runs or not."""
        return f"postgresql://postgres@/tdp?host={quote(str(self.postgres_socket))}"

    @property
    def database(self) -> str:
        """URL (libpq) of the ledger's database."""
        if self.database_url is None:
            return self.embedded_url
        scheme, _, rest = self.database_url.get_secret_value().partition("://")
        return f"{scheme.partition('+')[0]}://{rest}"

    @property
    def is_embedded(self) -> bool:
        """Whether the database is in the embedded PostgreSQL, also if its URL was set by `tdp env`."""
        return self.database == self.embedded_url

    @property
    def authorization(self) -> str | None:
        """Value of the HTTP header ``Authorization``; None if authentication is off."""
        if self.auth_string is None:
            return None
        return f"Basic {b64encode(self.auth_string.get_secret_value().encode()).decode()}"

    @property
    def logs(self) -> Path:
        """Directory of the services' log files."""
        return self.root / "logs"

    @property
    def inbox(self) -> Path:
        """Directory in which new source files arrive."""
        return self.root / "inbox"

    @property
    def sources(self) -> Path:
        """Directory of the received source files, named by SHA-256."""
        return self.root / "sources"

    @property
    def spool(self) -> Path:
        """Directory of the bot's downloads, until they are received."""
        return self.root / "spool"

    @property
    def work(self) -> Path:
        """Directory of the batches' work directories."""
        return self.root / "work"

    @property
    def work_locks(self) -> Path:
        """Where a file is locked for each stage run, for as long as a process of its work is alive."""
        return self.root / "locks"

    def owns(self, folder: Path) -> bool:
        """Return whether ``folder`` is the home, or belongs to the installation and is not the inbox."""
        where, home = folder.resolve(), self.root.resolve()
        own = {path.name for path in (self.logs, self.sources, self.spool, self.work, self.work_locks)}
        own |= {self.prefect_home.name, self.postgres_data.name, "tmp"}
        return where == home or (where.is_relative_to(home) and where.relative_to(home).parts[0] in own)

    @property
    def prefect_home(self) -> Path:
        """PREFECT_HOME of this installation, separate from the user's own."""
        return self.root / "prefect"
