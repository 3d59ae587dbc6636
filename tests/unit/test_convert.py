"""The convert stage as a process: the outcome of each source file does not affect the others."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.exports.columns import CHATS, MESSAGES
from flows.samples import write_samples
from flows.stages.runner.contract import FileOutcome, Result, write_result

STAGE = [sys.executable, "-m", "flows.stages.convert"]


def stage(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *before, *STAGE[1:], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=200, check=False)


def convert(source: Path, output: Path) -> dict[str, dict[str, Any]]:
    """Run the stage; return the outcome of each file by name."""
    done = stage(source, output)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((output / "manifest.json").read_bytes()) == result
    outcomes = {
        file["name"]: {"status": "ok", "reason": "", "counts": {}, **file} for file in result.get("files", [])
    }
    rows, chats = pq.read_table(output / "messages.parquet"), pq.read_table(output / "chats.parquet")
    assert (rows.schema, chats.schema) == (MESSAGES, CHATS)
    totals = {"messages": rows.num_rows, "chats": chats.num_rows}
    for name, total in totals.items():
        assert result.get("counts", {}).get(name, 0) == total
    for name, file in outcomes.items():
        assert rows["source"].to_pylist().count(name) == file["counts"].get("messages", 0)
        assert chats["source"].to_pylist().count(name) == file["counts"].get("chats", 0)
    return outcomes


def chat(count: int, **members: Any) -> str:
    messages = [
        {"id": n, "type": "message", "date": "2023-01-02T03:04:05", "text": f"{n}"} for n in range(count)
    ]
    return json.dumps(
        {"name": "C", "type": "public_channel", "id": 5, **members, "messages": messages}, indent=1
    )


def put(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_each_file_has_an_outcome_of_its_own(tmp_path: Path) -> None:
    whole = chat(3)
    body = '<div class="message default" id="message{}"><div class="body"></div></div>'
    html = f'<html><div class="history">{body}</div></html>'
    put(
        tmp_path / "in",
        **{
            "000001-good.zip/Export/result.json": whole,
            "000002-cut.zip/result.json": whole[: whole.rindex('"id"')],
            "000003-two.zip/a/result.json": whole,
            "000003-two.zip/b/result.json": "{",
            "000004-other.zip/notes.txt": "x",
            "000005-broken.zip/result.json": '{"dependencies": []}',
            "000006-html.zip/messages.html": html.format(1),
            "000006-html.zip/messages2.html": html.format(2),
            "000006-html.zip/lists/chats.html": "<html></html>",
            "000007-empty.zip/result.json": chat(0),
        },
    )
    (tmp_path / "in" / "000008-nothing.zip").mkdir()
    outcomes = convert(tmp_path / "in", tmp_path / "out")
    assert {name[:6]: file["status"] for name, file in outcomes.items()} == {
        "000001": "ok", "000002": "partial", "000003": "partial", "000004": "quarantined",
        "000005": "quarantined", "000006": "ok", "000007": "ok", "000008": "quarantined",
    }  # fmt: skip
    counts = {name[:6]: file["counts"] for name, file in outcomes.items()}
    assert counts["000001"] == {"bytes_in": len(whole), "chats": 1, "messages": 3}
    assert counts["000002"]["messages"] == 2
    assert counts["000003"]["messages"] == 3
    assert counts["000006"]["messages"] == 2
    assert counts["000007"] == {"bytes_in": len(chat(0)), "chats": 1, "messages": 0}
    reasons = {name[:6]: file["reason"] for name, file in outcomes.items()}
    assert "cut off in the middle" in reasons["000002"]
    assert reasons["000003"].startswith("b/result.json: cut off")
    assert "neither result.json nor messages.html" in reasons["000004"] == reasons["000008"]
    assert "not a Telegram export" in reasons["000005"]


def test_the_output_of_any_extract_program_is_accepted(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        **{"000001-chat.json": chat(1), "some folder/result.json": chat(2), "media.jsonl": "{}"},
    )
    outcomes = convert(tmp_path / "in", tmp_path / "out")
    assert {name: file["counts"]["messages"] for name, file in outcomes.items()} == {
        "000001-chat.json": 1,
        "some folder": 2,
    }


def test_files_that_extract_quarantined_are_ignored(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"000001-a.zip/result.json": chat(1)})
    (tmp_path / "in" / "000002-b.zip").mkdir()
    extracted = Result(
        "extract", [FileOutcome("000001-a.zip"), FileOutcome("000002-b.zip", "quarantined", "bad")]
    )
    write_result(tmp_path / "in", extracted)
    assert list(convert(tmp_path / "in", tmp_path / "out")) == ["000001-a.zip"]


def test_what_extract_kept_is_read_or_named(tmp_path: Path) -> None:
    page = '<div class="page_body chat_page"><div class="history"></div></div>'
    put(
        tmp_path / "in",
        **{
            "000001-a.zip/result.json": chat(1),
            "000001-a.zip/about.json": '{"about": "an account without chats"}',
            "000001-a.zip/result.json.bak": chat(2),
            "000001-a.zip/messages2.html.txt": page,
            "000002-b.zip/Export/result.json": chat(1),
            "000002-b.zip/Export/files/data.json": '{"dependencies": []}',
            "000002-b.zip/Export/files/page.html": "<html><p>sent to somebody</p></html>",
            "000002-b.zip/Export/photos/1.jpg": chat(1),
            "000002-b.zip/export_results.html": "<html><a>chats</a></html>",
            "000002-b.zip/lists/contacts.html": "<html><a>people</a></html>",
            "000003-c.zip/messages.old": chat(1),
            "000003-c.zip/notes.txt": "x",
            "000004-d.zip/result.json": chat(1),
            "000005-e.txt": "notes",
        },
    )
    (tmp_path / "in/000006-f.zip").mkdir()
    (tmp_path / "in/000006-f.zip/wide.json").write_bytes(chat(2).encode("utf-16"))
    kept = {"000001-a.zip": 4, "000002-b.zip": 1, "000004-d.zip": 3, "000007-g.zip": 1}
    write_result(
        tmp_path / "in", Result("extract", [FileOutcome(n, counts={"members": m}) for n, m in kept.items()])
    )
    outcomes = {name[:6]: file for name, file in convert(tmp_path / "in", tmp_path / "out").items()}
    assert {name: file["status"] for name, file in outcomes.items()} == {
        "000001": "partial", "000002": "ok", "000003": "quarantined", "000004": "partial",
        "000005": "quarantined", "000006": "ok", "000007": "quarantined",
    }  # fmt: skip
    reasons = {name: file["reason"] for name, file in outcomes.items()}
    assert reasons["000001"].startswith("not read: 'messages2.html.txt', 'result.json.bak'; about.json: ")
    assert reasons["000003"].endswith("not read: 'messages.old'")
    assert reasons["000004"] == "2 of the 3 files that extract kept are missing in its output"
    assert reasons["000007"] == "extract reports it, but has written nothing for it"


def test_utf_16_is_read(tmp_path: Path) -> None:
    for number, encoding in enumerate(["utf-16", "utf-16-be", "utf-16-le"], 1):
        folder = tmp_path / "in" / f"{number:06d}-a.zip"
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(chat(3, name="Ünï").encode(encoding))
    outcomes = convert(tmp_path / "in", tmp_path / "out")
    assert [(file["status"], file["counts"]["messages"]) for file in outcomes.values()] == [("ok", 3)] * 3


def test_a_complete_output_is_not_converted_again(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"000001-a.zip/result.json": chat(1)})
    first = stage(tmp_path / "in", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = stage(tmp_path / "gone", tmp_path / "out")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_an_empty_batch_gives_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert convert(tmp_path / "in", tmp_path / "out") == {}


def test_exit_statuses(tmp_path: Path) -> None:
    assert stage().returncode == 64
    assert stage(tmp_path).returncode == 64
    failed = stage(tmp_path / "gone", tmp_path / "out")
    assert failed.returncode == 75
    assert b"gone" in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_process_imports_neither_pandas_nor_numpy(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"000001-a.zip/result.json": chat(1)})
    done = stage(tmp_path / "in", tmp_path / "out", before=("-X", "importtime"))
    imported = {line.split(b"|")[-1].strip() for line in done.stderr.splitlines()}
    assert b"pyarrow.parquet" in imported
    assert not {b"pandas.core", b"numpy._core", b"prefect"} & imported


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"000001-a.zip/result.json": chat(300_000)})
    program = (
        "import sys; from flows.stages.convert.stage import main;"
        " from flows.stages.runner.lean_imports import block_optional_imports;"
        " block_optional_imports(); main(sys.argv[1:]); print(open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "in", tmp_path / "out"],
        capture_output=True, timeout=200, check=True, text=True,
    )  # fmt: skip
    peak = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak) < 300 * 1024  # KiB


def test_samples_have_the_outcomes_and_counts_of_their_generator(tmp_path: Path) -> None:
    expected = write_samples(tmp_path / "in", files=27, messages=60, seed=11, broken=6)
    extract = [sys.executable, "-m", "flows.stages.extract", tmp_path / "in", tmp_path / "extracted"]
    subprocess.run(extract, check=True, capture_output=True, timeout=200)
    outcomes = convert(tmp_path / "extracted", tmp_path / "out")
    for name, file in expected.by_file.items():
        if file.outcome == "quarantined":
            assert name not in outcomes or outcomes[name]["status"] == "quarantined"
            continue
        found = outcomes[name]
        assert (found["status"], found["counts"]["chats"], found["counts"]["messages"]) == (
            file.outcome,
            file.chats,
            file.messages,
        ), name


def test_every_real_export_is_converted_or_quarantined_with_a_reason(samples: Path, tmp_path: Path) -> None:
    files = sorted(path for path in samples.rglob("*") if path.is_file())
    for number, path in enumerate(files, 1):
        entry = tmp_path / "in" / f"{number:06d}-{path.parent.name}-{path.name}"
        entry.mkdir(parents=True)
        (entry / path.name).write_bytes(path.read_bytes())
    outcomes = convert(tmp_path / "in", tmp_path / "out")
    assert len(outcomes) == len(files)
    assert all(file["reason"] for file in outcomes.values() if file["status"] != "ok")
    by_name = {name.partition("-")[2]: file for name, file in outcomes.items()}
    assert {name for name, file in by_name.items() if file["status"] != "ok"} == {
        "single_innerdvations-error.json",
        "single_innerdvations-error-unexpected.json",
    }
    for name in ("public_channel_twin-result.json", "public_channel_twin-messages.html"):
        assert by_name[name]["counts"]["messages"] == 213
