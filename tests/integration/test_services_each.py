"""Each service by itself: where it is, what it logs, and what it says when it cannot start."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from homes import new_home, processes_of
from pydantic import SecretStr

from flows import services
from flows.errors import ServiceFailed
from flows.services import processes
from flows.services.postgres import _make_reachable
from flows.services.processes import child
from flows.settings import Settings


@pytest.fixture
def settings(open_folder: Path, tmp_path: Path) -> Settings:
    return new_home(open_folder / tmp_path.name)


def test_a_port_in_use_names_the_variable_to_set(settings: Settings) -> None:
    with (
        socket.create_server((settings.server_host, settings.server_port)),
        pytest.raises(ServiceFailed, match="TDP_SERVER_PORT"),
        services.prefect_server(settings),
    ):
        pass


def test_a_service_that_cannot_start_shows_its_log(settings: Settings) -> None:
    settings.postgres_data.mkdir(parents=True, mode=0o700)
    (settings.postgres_data / "PG_VERSION").write_text("9\n")
    log = r"postgres exited .*\n.*postgres\.log:\n  "
    with pytest.raises(ServiceFailed, match=log), services.postgres(settings):
        pass
    assert processes_of(settings) == []


def test_descendants_in_their_own_sessions_are_stopped_too(settings: Settings, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    stubborn = (
        "import os, pathlib, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); signal.pause()"
    )
    start = f"[sys.executable, '-c', {stubborn!r}], start_new_session=True"
    parent = f"import subprocess, sys; subprocess.run({start})"
    with child(settings, "parent", [sys.executable, "-c", parent]):
        descendant = psutil.Process(int(ready.read_text()))
    with contextlib.suppress(psutil.NoSuchProcess):
        assert descendant.status() == psutil.STATUS_ZOMBIE


def test_a_home_of_any_length_has_a_socket(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / ("long" * 30))
    with services.postgres(settings), psycopg.connect(settings.database) as connection:
        assert connection.info.host == str(settings.postgres_socket)
    assert len(str(settings.postgres_socket)) < 90


def test_a_database_url_starts_no_postgres(postgres: str, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, database_url=SecretStr(postgres), prefect_database="prefect_of_this_test"
    )
    with services.postgres(settings) as started:
        assert started is None
    with psycopg.connect(postgres) as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname = 'prefect_of_this_test'"
        assert connection.execute(query).fetchone() == (1,)
    assert not settings.postgres_data.exists()


def test_an_unreachable_database_is_reported_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{services.free_port()}/tdp"
    settings = Settings(home=tmp_path, database_url=SecretStr(url))
    with pytest.raises(ServiceFailed) as failed, services.postgres(settings):
        pass
    assert "127.0.0.1" in str(failed.value)
    assert "secret" not in str(failed.value)


def test_the_url_of_tdp_env_means_the_embedded_server(settings: Settings) -> None:
    url = services.environment(settings)["TDP_DATABASE_URL"]
    assert Settings(home=settings.home, database_url=SecretStr(url)).is_embedded
    assert not Settings(home=settings.home, database_url=SecretStr("postgresql://h/tdp")).is_embedded


def test_directories_are_opened_to_the_user_of_postgres_only_after_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL refuses to run as root, so the user it runs as has to reach its data."""
    closed = tmp_path / "private" / "home"
    (closed / "postgres").mkdir(parents=True)
    for folder in (closed.parent, closed):
        folder.chmod(0o700)
    _make_reachable("embedded_postgres", closed / "postgres")
    said = capsys.readouterr().err
    assert "runs as the user embedded_postgres, because this process is root" in said
    assert f"  {closed.parent}\n  {closed}\n" in said
    assert closed.stat().st_mode & 0o777 == 0o701
    _make_reachable("embedded_postgres", closed / "postgres")
    assert capsys.readouterr().err == ""


def test_logs_survive_restarts_and_large_ones_are_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(text: str) -> None:
        with child(settings, "speaker", ["sh", "-c", f"echo {text}"]) as started:
            started.process.wait()
            assert started.log_tail() == [f"Its log is {started.log}:", f"  {text}"]

    run("yesterday")
    run("today")
    log = settings.logs / "speaker.log"
    assert log.read_text() == "yesterday\ntoday\n"
    monkeypatch.setattr(processes, "_LOG_BYTES", 5)
    for number in range(7):
        run(f"{number} of many")
    kept = sorted(path.name for path in settings.logs.iterdir())
    assert kept == ["speaker.log", *(f"speaker.log.{number}" for number in range(1, 6))]
    assert [Path(f"{log}.{number}").read_text() for number in (1, 5)] == ["5 of many\n", "1 of many\n"]
