"""`tdp export` where it fails: the error that is reported, and nothing half-written remains."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from chat_tables import run_tdp as run
from exports_of_tables import TEXTS, export, fill, many
from typer.testing import Result

from flows.errors import ChatUnknown, ExportFailed, PackageMissing, QueryTimedOut
from flows.tables.export import complete


@pytest.fixture
def filled(database_url: str) -> str:
    return fill(database_url)


def error(done: Result, kind: type[Exception]) -> str:
    assert done.exit_code == 1
    assert isinstance(done.exception, kind)
    return str(done.exception)


def test_an_unknown_or_ambiguous_chat_is_an_error_with_its_candidates(filled: str, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    assert "no chat has" in error(run(filled, "export", out, "--chat", "missing"), ChatUnknown)
    message = error(run(filled, "export", out, "--chat", "ew"), ChatUnknown)
    assert "channel1  News  (public_channel)\n" in message
    assert "channel2  Old news" in message
    assert not out.exists()


def test_an_existing_file_is_replaced_only_by_force(filled: str, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    out.write_text("mine")
    assert "it exists" in error(run(filled, "export", out), ExportFailed)
    assert out.read_text() == "mine"
    export(filled, out, "--force")
    assert out.read_text().startswith("chat_key,")
    (tmp_path / "folder.csv").mkdir()
    assert run(filled, "export", tmp_path / "folder.csv", "--force").exit_code == 2


def test_a_path_that_is_not_a_regular_file_is_kept(filled: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    assert "not a regular file" in error(run(filled, "export", pipe, "--force"), ExportFailed)
    assert pipe.is_fifo()


def test_a_symbolic_link_is_followed(filled: str, tmp_path: Path) -> None:
    link, folder = tmp_path / "link.csv", tmp_path / "folder"
    folder.mkdir()
    link.symlink_to(folder / "all.csv")
    export(filled, link)
    assert "it exists" in error(run(filled, "export", link), ExportFailed)
    (folder / "all.csv").write_text("mine")
    export(filled, link, "--force")
    assert link.is_symlink()
    assert (folder / "all.csv").read_text().startswith("chat_key,")
    assert list(folder.iterdir()) == [folder / "all.csv"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)  # as on a file system without hard links
    out = tmp_path / "all.csv"
    with pytest.raises(ExportFailed, match="appeared meanwhile"), complete(out, force=False) as partial:
        partial.write_text("new")
        out.write_text("mine")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("all.csv", "mine")]
    with complete(tmp_path / "other.csv", force=False) as partial:
        partial.write_text("new")
    assert (tmp_path / "other.csv").read_text() == "new"


def test_more_rows_than_a_sheet_has_are_reported_before_one_is_written(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.tables.export.SHEET_ROWS", len(TEXTS))
    assert "rows at most" in error(run(filled, "export", tmp_path / "all.xlsx"), ExportFailed)
    assert run(filled, "export", tmp_path / "all.xlsx", "--chat", "News").exit_code == 0


def test_wrong_formats_and_places_are_reported(filled: str, tmp_path: Path) -> None:
    assert "names no format" in error(run(filled, "export", tmp_path / "all.txt"), ExportFailed)
    assert "stdout" in error(run(filled, "export", "-", "--format", "parquet"), ExportFailed)
    assert "No such file" in error(run(filled, "export", tmp_path / "none" / "all.csv"), ExportFailed)
    assert run(filled, "export", tmp_path / "all.parquet", "--bom").exit_code == 2
    assert run(filled, "export", tmp_path / "all.csv", "--what", "timings", "--chat", "1").exit_code == 2
    assert run(filled, "export", tmp_path / "all.csv", "--what", "chats", "--since", "7d").exit_code == 2
    assert "is empty" in error(run(filled, "export", tmp_path / "all.csv", "--chat", ""), ChatUnknown)


@pytest.mark.parametrize(("suffix", "package"), [("duckdb", "duckdb"), ("xlsx", "xlsxwriter")])
def test_a_missing_package_is_reported_with_the_command(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = error(run(filled, "export", tmp_path / f"all.{suffix}"), PackageMissing)
    assert message.endswith(f"-m pip install {package}")
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_takes_too_long_is_ended(filled: str, tmp_path: Path) -> None:
    with psycopg.connect(filled) as opened:
        opened.execute("UPDATE chats SET name = name || pg_sleep(0)::text")
        opened.execute("ALTER TABLE messages RENAME TO kept")
        opened.execute("CREATE VIEW messages AS SELECT kept.* FROM kept, pg_sleep(30)")
    for out in ("all.csv", "all.parquet"):
        message = error(run(filled, "export", tmp_path / out, "--timeout", "0.2"), QueryTimedOut)
        assert "after 0.2 s" in message
    assert list(tmp_path.iterdir()) == []


COMMAND = [sys.executable, "-m", "flows.cli", "export"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "sqlite", "duckdb", "xlsx"])
def test_a_full_disk_leaves_nothing(filled: str, tmp_path: Path, suffix: str) -> None:
    many(filled, 20_000)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    env = os.environ | {"TDP_DATABASE_URL": filled, "TDP_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*COMMAND, tmp_path / f"all.{suffix}"],
        env=env,
        preexec_fn=small_files_only,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}/all.{suffix} was not written: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_interrupted_export_ends_its_query_and_leaves_nothing(
    filled: str, tmp_path: Path, signum: signal.Signals, suffix: str
) -> None:
    with psycopg.connect(filled, autocommit=True) as opened:
        opened.execute("ALTER TABLE messages RENAME TO kept")
        opened.execute("CREATE VIEW messages AS SELECT kept.* FROM kept, pg_sleep(600)")
        env = os.environ | {"TDP_DATABASE_URL": filled, "TDP_HOME": str(tmp_path / "home")}
        with subprocess.Popen(
            [*COMMAND, tmp_path / f"all.{suffix}"], env=env, stderr=subprocess.PIPE
        ) as process:
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'"
            while opened.execute(sleeping).fetchone() == (0,):
                assert process.poll() is None
            process.send_signal(signum)
            assert process.wait(60) == 130
        assert opened.execute(sleeping).fetchone() == (0,)
    assert list(tmp_path.iterdir()) == []
