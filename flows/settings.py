"""Settings of one installation, read once from the environment and passed on."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.domain import FanOut

#: ``sun_path`` holds 104 bytes on macOS, 108 on Linux; the socket's name and a final NUL count.
_SOCKET_PATH_MAX = 103 - len("/.s.PGSQL.5432")


class Settings(BaseSettings):
    """Where things are, and the seeds of what operators later change in the Prefect UI.

    Every field can be set as ``TDP_<NAME>`` in the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix="TDP_", populate_by_name=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Path = Field(
        default=Path(".tdp"), description="State: database, Prefect home, inbox, sources, work, logs."
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL to use instead of the embedded one."
    )
    prefect_database: str = Field(
        default="prefect", description="Database of the Prefect server, beside ours."
    )
    server_host: str = Field(default="127.0.0.1", description="Address the Prefect server listens on.")
    server_port: int = Field(default=4200, description="Port of the Prefect server and its UI.")
    monitor_host: str = Field(default="127.0.0.1", description="Address the monitor listens on.")
    monitor_port: int = Field(default=8080, description="Port of /health and /metrics.")
    auth_string: SecretStr | None = Field(
        default=None,
        description="`user:password` that the Prefect API, and a monitor that is not on loopback, ask for.",
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
        description="Where batches run: in their parent's process, or as runs of their own on the work pool.",
    )
    settle_seconds: float = Field(
        default=2.0, ge=0, description="A file younger than this may still be being copied in."
    )

    @field_validator("database_url")
    @classmethod
    def _password_is_known_as_one(cls, url: SecretStr | None) -> SecretStr | None:
        if url and "password=" in url.get_secret_value().partition("?")[2]:
            raise ValueError("write the password before the @, not as a parameter: there it would be shown")
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
        """Directory of the embedded PostgreSQL's socket: its data directory, unless that path is too long."""
        if len(bytes(self.postgres_data)) <= _SOCKET_PATH_MAX:
            return self.postgres_data
        return Path("/tmp") / f"tdp-{sha256(bytes(self.root)).hexdigest()[:16]}"  # noqa: S108 - short, checked

    @property
    def embedded_url(self) -> str:
        """URL (libpq) of the ledger's database in the embedded PostgreSQL, running or not."""
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
        """Whether PostgreSQL is ours to start; also when the environment of `tdp env` names its URL."""
        return self.database == self.embedded_url

    @property
    def authorization(self) -> str | None:
        """Value of the HTTP header ``Authorization`` that lets a client in; None if nobody asks for one."""
        if self.auth_string is None:
            return None
        return f"Basic {b64encode(self.auth_string.get_secret_value().encode()).decode()}"

    @property
    def logs(self) -> Path:
        """Where the services write their logs."""
        return self.root / "logs"

    @property
    def inbox(self) -> Path:
        """Where files are dropped."""
        return self.root / "inbox"

    @property
    def sources(self) -> Path:
        """Where received files are kept, by SHA-256."""
        return self.root / "sources"

    @property
    def work(self) -> Path:
        """Where batches are worked on."""
        return self.root / "work"

    @property
    def work_locks(self) -> Path:
        """Where a file is locked for each stage run, for as long as a process of its work is alive."""
        return self.root / "locks"

    @property
    def prefect_home(self) -> Path:
        """PREFECT_HOME of this installation, apart from everybody else's."""
        return self.root / "prefect"
