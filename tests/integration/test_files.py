"""`tdp files`: list source files across batches, return and drop quarantined ones, with a real ledger."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from typer.testing import CliRunner, Result

from flows import reports
from flows.cli.files import app
from flows.cli.reports import app as reports_app
from flows.errors import FileUnavailable
from flows.ledger.connection import connection
from flows.monitor.failures import of_ledger
from flows.reports import duplicates
from flows.settings import Settings


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TDP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TDP_DATABASE_URL", database_url)
    return Settings()


def execute(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def add(settings: Settings, name: str, content: bytes, status: str, reason: str | None = None) -> Path:
    """Add a completed batch of one source file; return its stored file."""
    sha256 = hashlib.sha256(content).hexdigest()
    stored = settings.sources / sha256[:2] / sha256
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    os.utime(stored, (1_000_000_000, 1_000_000_000))
    execute(
        settings,
        """
        WITH batch AS (
            INSERT INTO batch_processing (status, file_count, completed_at) VALUES ('COMPLETED', 1, now())
            RETURNING batch_id
        ), source AS (
            INSERT INTO source_files (sha256, name, size_bytes, stored_path) VALUES (%s, %s, %s, %s)
            RETURNING source_id
        ), receipt AS (
            INSERT INTO receipts (source_id, origin, duplicate) SELECT source_id, %s, false FROM source
        )
        INSERT INTO batch_files (batch_id, source_id, position, status, stage, error)
        SELECT batch_id, source_id, 1, %s, 'extract', %s FROM batch, source
        """,
        sha256, name, len(content), str(stored), f"/home/anna/{name}", status, reason,
    )  # fmt: skip
    return stored


def tdp(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments], input=stdin)


def test_quarantined_files_are_listed_with_reason_and_path(settings: Settings) -> None:
    add(settings, "good.zip", b"good", "STORED")
    add(settings, "bad.zip", b"bad", "QUARANTINED", "it is encrypted: pack the export again")
    listed = tdp("--status", "quarantined").stdout
    assert "1  QUARANTINED" not in listed
    assert "2  QUARANTINED  batch_000002  bad.zip" in listed
    assert "from    /home/anna/bad.zip" in listed
    assert "reason  it is encrypted: pack the export again" in listed
    assert [file["name"] for file in json.loads(tdp("--json").stdout)] == ["bad.zip", "good.zip"]


def test_left_files_are_listed(settings: Settings) -> None:
    assert tdp("--left").stdout == "No files.\n"
    execute(
        settings,
        "INSERT INTO left_files (folder, name, sighting, reason, is_error)"
        " VALUES ('/home/anna', 'a.pdf', '', 'a PDF document', false)",
    )
    assert tdp("--left").stdout == "/home/anna/a.pdf\n    reason  a PDF document\n"


def test_duplicates_are_listed_with_the_file_whose_content_they_are(settings: Settings) -> None:
    assert tdp("--duplicates").stdout == "No files.\n"
    add(settings, "a.zip", b"good", "STORED")
    add(settings, "b.zip", b"other", "STORED")
    again = (
        "INSERT INTO receipts (source_id, origin, duplicate)"
        " SELECT source_id, %s, true FROM source_files WHERE name = %s"
    )
    (now,) = execute(settings, "SELECT clock_timestamp() AS at")
    for origin, name in (("/home/bert/x/c.zip", "a.zip"), ("/home/bert/d.zip", "b.zip")):
        execute(settings, again, origin, name)
    listed = tdp("--duplicates").stdout.splitlines()
    assert listed[::2] == [
        "DUPLICATE  d.zip: the content of b.zip (batch_000002)",
        "DUPLICATE  c.zip: the content of a.zip (batch_000001)",
    ]
    assert listed[3].startswith("    from    /home/bert/x/c.zip, ")
    (newest,) = json.loads(tdp("--duplicates", "--limit", "1", "--json").stdout)
    assert (newest["name"], newest["same_as"], newest["batch_id"]) == ("d.zip", "b.zip", "batch_000002")
    wide = CliRunner(env={"COLUMNS": "300"})
    shown = wide.invoke(reports_app, ["show", "1"]).stdout
    assert "DUPLICATE  c.zip: the content of a.zip, " in shown
    assert "2 duplicates, see `tdp files --duplicates`" in wide.invoke(reports_app, ["status"]).stdout
    with connection(settings.database) as ledger:
        found = duplicates(ledger, since=now["at"], folder="/home/bert/x")
        assert [(one.name, one.status) for one in found] == [("c.zip", "STORED")]
        assert duplicates(ledger, since=now["at"], folder="/home/ber") == []
    assert tdp("--duplicates", "--left").exit_code == 2


def test_files_are_returned_under_their_own_names(settings: Settings, tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        add(settings, "same.zip", content, "QUARANTINED", "it is encrypted")
    good = add(settings, "good.zip", b"good", "STORED")
    back = tmp_path / "back"
    result = tdp("return", "--all", str(back))
    assert result.exit_code == 0
    assert "2 files returned." in result.stdout
    assert tdp("--status", "quarantined").stdout == "No files.\n"
    assert tdp("--status", "returned").stdout.count("  RETURNED  ") == 2
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        "same.zip": b"one",
        "same (2).zip": b"two",
    }
    assert (back / "same.zip").stat().st_mtime == 1_000_000_000
    assert "0 files returned." in tdp("return", "--all", str(back)).stdout
    assert tdp("return", "3", str(back)).exit_code == 0
    assert (back / "good.zip").read_bytes() == good.read_bytes()
    listed = json.loads(tdp("--json").stdout)
    assert all(file["returned_at"] and not file["purged_at"] for file in listed)
    for form in ([], ["--json"]):
        assert tdp("--limit", "2", *form).stderr == "These are the newest 2; --limit shows more.\n"
    for own in (settings.inbox, settings.sources / "new"):
        refused = tdp("return", "1", str(own)).exception
        assert str(refused) == f"{own} belongs to this installation: name another folder"


def test_a_return_that_fails_says_what_was_returned_before(settings: Settings, tmp_path: Path) -> None:
    add(settings, "a.zip", b"one", "QUARANTINED", "it is encrypted")
    add(settings, "b.zip", b"two", "QUARANTINED", "it is encrypted").unlink()
    result = tdp("return", "--all", str(tmp_path / "back"))
    assert result.stdout == f"1  a.zip -> {tmp_path}/back/a.zip\n1 file returned.\n"
    assert "2 (b.zip) is not returned: " in str(result.exception)
    assert str(result.exception).endswith(": No such file or directory")
    assert [file["id"] for file in json.loads(tdp("--status", "quarantined", "--json").stdout)] == [2]


def test_a_damaged_stored_file_is_not_returned(settings: Settings, tmp_path: Path) -> None:
    add(settings, "bad.zip", b"bad", "QUARANTINED").write_bytes(b"worse")
    result = tdp("return", "1", str(tmp_path / "back"))
    assert "its stored file is damaged" in str(result.exception)
    assert list((tmp_path / "back").iterdir()) == []


def test_only_quarantined_files_are_dropped_and_do_not_wait_for_a_decision_any_more(
    settings: Settings, tmp_path: Path
) -> None:
    good = add(settings, "good.zip", b"good", "STORED")
    bad = add(settings, "bad.zip", b"bad", "QUARANTINED", "it is encrypted")
    assert isinstance(tdp("drop", "--yes", "1", "2").exception, FileUnavailable)
    assert tdp("drop", "--all", stdin="n\n").exit_code == 1
    assert bad.exists()
    tdp("return", "2", str(tmp_path))
    with connection(settings.database) as ledger:
        assert reports.status(ledger).files.returned == 1
        assert "2  bad.zip\n1 file dropped." in tdp("drop", "--all", "--yes").stdout
        files = reports.status(ledger).files
        assert (files.stored, files.quarantined, files.returned, files.dropped) == (1, 0, 0, 1)
        assert reports.batches(ledger)[0].quarantined == 0
        assert of_ledger(ledger)["file_quarantined"] is None
    assert good.exists()
    assert not bad.exists()
    assert "was dropped on" in str(tdp("return", "2", str(tmp_path)).exception)
    assert "was dropped on" in str(tdp("drop", "--yes", "2").exception)
    assert "0 files dropped." in tdp("drop", "--all", "--yes").stdout
    assert tdp("--status", "quarantined").stdout == "No files.\n"
    (dropped,) = json.loads(tdp("--status", "dropped", "--json").stdout)
    assert (dropped["status"], bool(dropped["dropped_at"])) == ("DROPPED", True)
    assert "    dropped " in tdp("--status", "dropped").stdout
    shown = CliRunner(env={"COLUMNS": "300"}).invoke(reports_app, ["show", "2"]).stdout
    assert "DROPPED" in shown
    assert "bad.zip (extract): dropped " in shown
    assert "1 stored, 0 in part, 0 quarantined, 1 dropped" in tdp_status()


def tdp_status() -> str:
    return CliRunner(env={"COLUMNS": "300"}).invoke(reports_app, ["status"]).stdout


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "arguments",
    [
        ["drop"],
        ["drop", "--all", "7"],
        ["return", "/x"],
        ["return", "seven", "/x"],
        ["return", "7", "8"],
        ["return", "7", ""],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: list[str]) -> None:
    assert tdp(*arguments).exit_code == 2


def test_files_of_a_batch_that_is_processed_are_not_dropped(settings: Settings) -> None:
    bad = add(settings, "bad.zip", b"bad", "QUARANTINED")
    execute(settings, "UPDATE batch_processing SET status = 'EXTRACTING'")
    assert "batch_000001 is not finished: it is EXTRACTING" in str(tdp("drop", "--yes", "1").exception)
    execute(settings, "UPDATE batch_processing SET held_at = now()")
    left = tdp("drop", "--all", "--yes").stdout
    assert left == "1  bad.zip: unchanged, batch_000001 is not finished: it is held\n0 files dropped.\n"
    assert "no source file with the id 9" in str(tdp("drop", "--yes", "9").exception)
    assert bad.exists()
