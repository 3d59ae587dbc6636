"""For any bytes and names each file has an outcome, and nothing is written outside of its directory."""

import bz2
import gzip
import lzma
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import plain_sevenzip, rar, sevenzipped, tarred, zipped

from flows.errors import BadInput
from flows.stages.extract.archives.names import decode_name
from flows.stages.extract.entry import Entry, safe_path
from flows.stages.extract.limits import Budget, Limits, TooLarge
from flows.stages.extract.stage import extract

LIMITS = Limits(bytes=1 << 20, entries=100)
EXPORT = ("Чат/result.json", b'{"messages": []}' * 20)
FILES = (EXPORT, ("Чат/messages.html", b"<html>"), ("Чат/photos/a.jpg", b"a"))
SEEDS = {
    "zip": zipped(*FILES),
    "bzip2 in zip": zipped(*FILES, method=zipfile.ZIP_BZIP2),
    "LZMA in zip": zipped(*FILES, method=zipfile.ZIP_LZMA),
    "tar": tarred(*FILES),
    "tar.gz": gzip.compress(tarred(*FILES)),
    "tar.zst": zstd.compress(tarred(*FILES)),
    "xz": lzma.compress(EXPORT[1]),
    "bz2": bz2.compress(EXPORT[1]),
    "7z": sevenzipped(*FILES),
    "7z with a plain list of contents": plain_sevenzip(*FILES),
    "RAR": rar(*FILES),
    "nested": zipped(("a.7z", plain_sevenzip(*FILES)), ("b.tar", tarred(("c.zip", zipped(*FILES))))),
}
PATCHES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)
NAMES = st.text(
    st.sampled_from("aAéß/\\.:\x00\x1b\u0301 я") | st.characters(exclude_categories=["Cs"]), max_size=40
)


def outcome(data: bytes, *, media: bool = False) -> str:
    """Extract one file; check that its outcome agrees with the written files and their places."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        (root / "in" / "000001-a").write_bytes(data)
        (file,) = extract(root / "in", root / "out", LIMITS, media=media).files
        assert (file.status == "ok") == (file.reason is None)
        assert (root / "out" / "000001-a").exists() == (file.status != "quarantined")
        assert {path.name for path in root.iterdir()} == {"in", "out"}
        assert {path.name for path in (root / "out").iterdir()} <= {
            "000001-a",
            "manifest.json",
            "media.jsonl",
        }
        return file.status


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS.keys())
@given(patches=PATCHES, media=st.booleans(), cut=st.none() | st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_damaged_archive_has_an_outcome(
    seed: bytes, patches: list[tuple[float, int]], media: bool, cut: float | None
) -> None:
    data = bytearray(seed)
    for where, value in patches:
        data[int(where * len(data))] = value
    status = outcome(bytes(data if cut is None else data[: int(cut * len(data))]), media=media)
    assert status == "ok" or patches or cut is not None


@pytest.mark.parametrize(
    "magic", [b"", b"PK\3\4", b"7z\xbc\xaf\x27\x1c\0\4", b"Rar!\x1a\x07\x01\0", b"\x1f\x8b\x08"]
)
@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_have_an_outcome(magic: bytes, data: bytes) -> None:
    outcome(magic + data)


@given(st.lists(NAMES, max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_names_are_written_to_distinct_paths_in_the_directory(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        entry = Entry(root / "entry")
        paths = [path for path in (safe_path(name, 32) for name in names) if path is not None]
        for number, path in enumerate(paths):
            entry.write(path, [b"%d" % number])
        written = [path for path in root.rglob("*") if path.is_file()]
        assert sorted(int(path.read_bytes()) for path in written) == list(range(len(paths)))
        assert all(path.is_relative_to(root / "entry") for path in written)
        folded = [str(path.relative_to(root)).casefold() for path in written]
        assert len(set(folded)) == len(folded)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/home/a/result.json", "home/a/result.json"),
        ("C:\\a\\result.json", "a/result.json"),
        ("\\\\?\\c:\\a\\result.json", "a/result.json"),
        ("//host/share/result.json", "host/share/result.json"),
        ("C:result.json", "C:result.json"),
        ("10:30/result.json", "10:30/result.json"),
        ("/../result.json", None),
        ("C:/../result.json", None),
        ("C:\\", "unnamed"),
        ("/", "unnamed"),
    ],
)
def test_absolute_paths_become_relative_ones(name: str, path: str | None) -> None:
    """As in unzip, tar and 7-Zip."""
    assert safe_path(name, 32) == path


def test_a_damaged_member_does_not_occupy_its_name() -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise BadInput("it is damaged")

    with tempfile.TemporaryDirectory() as name:
        entry = Entry(Path(name) / "entry")
        with pytest.raises(BadInput):
            entry.write("a/result.json", broken())
        assert len(entry) == 0
        entry.write("a/result.json", [b"whole"])
        assert (Path(name) / "entry" / "a" / "result.json").read_bytes() == b"whole"


@given(st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_name_is_decoded_deterministically(raw: bytes) -> None:
    assert decode_name(raw) == decode_name(raw)
    assert decode_name(b"a/" + raw.replace(b"/", b"") + b"/result.json").endswith("result.json")


def test_the_ratio_limits_large_files_only() -> None:
    limits = Limits(bytes=1 << 40, ratio=10)
    for source, most in ((1000, 256 << 20), (1 << 30, 10 << 30)):
        budget = Budget(source, limits)
        budget.spend(most)
        with pytest.raises(TooLarge, match="max_ratio"):
            budget.spend(1)
