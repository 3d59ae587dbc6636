"""The corpus: hostile and broken files, all in one batch through the real stages; each has an outcome."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow.parquet as pq
import pytest
from archive_cases import ARCHIVES
from cases import PARTLY, QUARANTINED, STORED, Case, Chat
from export_cases import EXPORTS
from odd_cases import ODD
from packing import long_list
from zip_cases import LIMITS

CASES = [*ARCHIVES, *EXPORTS, *ODD]
MB = 1 << 20


class Batch(NamedTuple):
    """The result of extract and convert: outcomes by entry name, peak memory of each stage in bytes."""

    root: Path
    outcomes: dict[str, tuple[str, str, int]]
    peaks: dict[str, int]


def entry(number: int, case: Case) -> str:
    return f"{number:06d}-{case.name}"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    root = tmp_path_factory.mktemp("corpus")
    (root / "in").mkdir()
    for number, case in enumerate(CASES):
        content = case.make(Chat(number))
        path = root / "in" / entry(number, case)
        if content == long_list():
            path.write_bytes(b"PK\x03\x04")
            os.truncate(path, 400 * MB)
            with path.open("ab") as file:
                file.write(content)
        else:
            path.write_bytes(content)
    files, extract_peak = run("extract", root / "in", root / "extracted", *LIMITS)
    converted, convert_peak = run("convert", root / "extracted", root / "converted")
    outcomes = {name: outcome(file, converted.get(name)) for name, file in files.items()}
    return Batch(root, outcomes, {"extract": extract_peak, "convert": convert_peak})


def run(stage: str, source: Path, output: Path, *options: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Run a stage without an unpacker of RAR; return its outcomes by name and its peak memory in bytes."""
    code = (
        f"import pathlib, sys; from flows.stages.{stage}.stage import main; status = main(sys.argv[1:]);"
        "sys.stderr.write(pathlib.Path('/proc/self/status').read_text()); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, output, *options],
        capture_output=True,
        timeout=200,
        check=False,
        env={"PATH": "/nowhere"},
    )
    assert done.returncode == 0, done.stderr.decode()
    peak = re.search(rb"VmHWM:\s+(\d+) kB", done.stderr)
    assert peak, "no peak memory in /proc"
    return {file["name"]: file for file in json.loads(done.stdout)["files"]}, int(peak[1]) * 1024


def outcome(extracted: dict[str, Any], converted: dict[str, Any] | None) -> tuple[str, str, int]:
    """Return the outcome of a file, the reason, and the number of messages read from it."""
    outcomes = [file for file in (extracted, converted) if file]
    statuses = {file.get("status", "ok") for file in outcomes}
    reason = "; ".join(file["reason"] for file in outcomes if "reason" in file)
    read = converted.get("counts", {}).get("messages", 0) if converted else 0
    if "quarantined" in statuses:
        return QUARANTINED, reason, read
    return PARTLY if "partial" in statuses else STORED, reason, read


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=[case.name for case in CASES])
def test_each_case_has_the_expected_outcome(batch: Batch, number: int, case: Case) -> None:
    how, reason, read = batch.outcomes[entry(number, case)]
    assert (how, read) == (case.outcome, case.rows if case.read is None else case.read), reason
    assert case.reason in reason
    assert bool(reason) == (how != STORED)


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_nothing_is_written_outside_and_nothing_is_linked(batch: Batch) -> None:
    assert {path.name for path in batch.root.iterdir()} == {"in", "extracted", "converted"}
    extracted = batch.root / "extracted"
    assert {path.name for path in extracted.iterdir()} <= {*batch.outcomes, "manifest.json", "media.jsonl"}
    for path in extracted.rglob("*"):
        assert path.is_dir() or stat.S_ISREG(path.lstat().st_mode)
        assert path.name.isprintable()


def test_memory_is_bounded(batch: Batch) -> None:
    assert batch.peaks["extract"] < 250 * MB
    assert batch.peaks["convert"] < 1000 * MB


def test_every_row_of_every_readable_file_is_stored(batch: Batch, database_url: str) -> None:
    """Invalid files of a batch do not affect the rows of the other files."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.stages.store", batch.root / "converted", batch.root / "stored"],
        env={**os.environ, "TDP_DATABASE_URL": database_url},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    with psycopg.connect(database_url) as connection:
        rows = Counter(
            dict(connection.execute("SELECT source_id, count(*) FROM messages GROUP BY 1").fetchall())
        )
    assert {number: rows[number] for number in range(len(CASES))} == {
        number: case.rows for number, case in enumerate(CASES)
    }


@pytest.mark.matrix
def test_a_million_messages_take_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    chat = Chat(0)
    peaks = []
    for count in (1_000, 1_000_000):
        source = tmp_path / str(count)
        source.mkdir()
        messages = (json.dumps(chat.message(number), indent=1) for number in range(count))
        with (source / "000001-many.json").open("w") as file:
            file.write(chat.dump().decode().removesuffix("]\n}"))
            file.write(",\n".join(messages))
            file.write("\n ]\n}")
        run("extract", source, tmp_path / f"{count}-extracted")
        files, peak = run("convert", tmp_path / f"{count}-extracted", tmp_path / f"{count}-converted")
        assert files["000001-many.json"]["counts"]["messages"] == count
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 200 * MB


def test_names_are_decoded_in_the_packers_character_set(batch: Batch) -> None:
    folders = {
        case.name: {
            path.parent.name for path in (batch.root / "extracted" / entry(number, case)).rglob("*.json")
        }
        for number, case in enumerate(CASES)
        if case.name.startswith(("name", "tar name"))
    }
    assert (
        folders["name in unmarked UTF-8"] == folders["name in CP866"] == folders["name in CP1251"] == {"Чат"}
    )
    assert folders["tar name in CP1251"] == {"Чат"}
    assert folders["name in CP437"] == {"Über"}
    assert folders["name in GBK"] == {"聊天"}
    assert folders["name of control characters"] == {"a_b_[31m"}


def test_no_text_has_characters_that_postgresql_rejects(batch: Batch) -> None:
    texts = pq.read_table(batch.root / "converted" / "messages.parquet", columns=["text"])["text"]
    assert not any("\0" in text.as_py() for text in texts)
