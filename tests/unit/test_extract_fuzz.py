"""Whatever bytes and names come, each file has an outcome and nothing is written outside its directory."""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import BadInput
from flows.stages.entry import Entry, Limits, safe_path
from flows.stages.extract import extract

LIMITS = Limits(bytes=1 << 20, entries=100)


def _seed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Чат/result.json", b'{"messages": []}' * 20)
        archive.writestr("Чат/messages.html", b"<html>")
        archive.writestr("Чат/photos/a.jpg", b"a")
    return buffer.getvalue()


SEED = _seed()
PATCHES = st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=6)
NAMES = st.text(
    st.sampled_from("aAéß/\\.:\x00\x1b\u0301 я") | st.characters(exclude_categories=["Cs"]), max_size=40
)


@given(PATCHES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_damaged_archive_has_an_outcome(patches: list[tuple[int, int]], media: bool) -> None:
    data = bytearray(SEED)
    for at, value in patches:
        data[at] = value
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        (root / "in" / "000001-a.zip").write_bytes(data)
        (file,) = extract(root / "in", root / "out", LIMITS, media=media).files
        written = {path for path in root.rglob("*") if path.is_file()} - {root / "in" / "000001-a.zip"}
        assert all(path.is_relative_to(root / "out") for path in written)
        assert (file.status == "ok") == (file.reason is None)
        assert (root / "out" / "000001-a.zip").exists() == (file.status != "quarantined")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_have_an_outcome(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        (root / "in" / "000001-a.zip").write_bytes(data)
        (file,) = extract(root / "in", root / "out", LIMITS).files
        assert file.status == "ok" or file.reason


@given(st.lists(NAMES, max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_names_are_written_apart_and_inside(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        entry = Entry(root / "entry", 0, LIMITS)
        paths = [path for path in (safe_path(name, 32) for name in names) if path is not None]
        for number, path in enumerate(paths):
            entry.write(path, [b"%d" % number])
        written = [path for path in root.rglob("*") if path.is_file()]
        assert sorted(int(path.read_bytes()) for path in written) == list(range(len(paths)))
        assert all(path.is_relative_to(root / "entry") for path in written)
        folded = [str(path.relative_to(root)).casefold() for path in written]
        assert len(set(folded)) == len(folded)


def test_a_damaged_member_leaves_its_name_free() -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise BadInput("it is damaged")

    with tempfile.TemporaryDirectory() as name:
        entry = Entry(Path(name) / "entry", 0, LIMITS)
        with pytest.raises(BadInput):
            entry.write("a/result.json", broken())
        assert len(entry) == 0
        entry.write("a/result.json", [b"whole"])
        assert (Path(name) / "entry" / "a" / "result.json").read_bytes() == b"whole"
