"""The extract stage as a process: the unpacked members of real archives, exit statuses, and after a kill."""

import json
import resource
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from extracted import EXPORT, STAGE, extract, files_in, pack, stage
from raw_zip import DESCRIPTOR, RawEntry, write_raw_zip

from blocks import PipelineConfig
from flows.errors import BadInput
from flows.samples import write_samples
from flows.stages.extract.archives import open_archive
from flows.stages.extract.archives.zip_list import WRAP
from flows.stages.extract.limits import Budget, Limits
from flows.stages.extract.stage import _parser, limits_of


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_the_limits_of_the_block_are_those_of_extract() -> None:
    def limits(config: PipelineConfig) -> Limits:
        options = _parser().parse_args(["in", "out", *config.extract_options()])
        assert options.media == config.unpack_media
        return limits_of(options)

    assert limits(PipelineConfig()) == Limits()
    changed = PipelineConfig(
        unpack_media=True, max_unpacked_gb=0.5, max_ratio=9, max_entries=8, max_folder_depth=7, max_nesting=0
    )
    assert limits(changed) == Limits(bytes=500_000_000, ratio=9, entries=8, depth=7, nesting=0)


def test_every_sample_has_the_expected_outcome(tmp_path: Path) -> None:
    expected = write_samples(tmp_path / "in", files=27, messages=20, seed=5, broken=6)
    result = extract(tmp_path / "in", tmp_path / "out")
    outcomes = {file["name"]: file.get("status", "ok") for file in result["files"]}
    for name, file in expected.by_file.items():
        at_extract = "ok" if file.outcome == "partial" else file.outcome  # a cut JSON shows in convert
        assert outcomes[name] == at_extract, name
        assert (tmp_path / "out" / name).is_dir() == (at_extract == "ok")
    assert all(file["reason"] for file in result["files"] if file.get("status") == "quarantined")
    assert result["counts"]["bytes_in"] == sum(path.stat().st_size for path in (tmp_path / "in").iterdir())


def test_only_what_convert_reads_is_written_and_media_is_listed(tmp_path: Path) -> None:
    pack(
        tmp_path / "in" / "000001-a.zip",
        **{
            "Export/result.json": EXPORT,
            "Export/messages.html": b"<html>1",
            "Export/messages2.html": b"<html>2",
            "Export/photos/photo_1.jpg": b"\xff" * 7,
            "Export/css/style.css": b"body",
            "Export/lists/other_data.json": b'{"about": "drafts"}',
            "Export/js/script.js": b"x",
            "__MACOSX/Export/._result.json": b"\0\5\26\7",
            "Other/lists/chats.html": b"<html>",
            "Other/lists/contacts.html": b"<html>",
            "Other/export_results.html": b"<html>",
            "package.json": b'{"dependencies": {}}',
            "composer.json": b'{"name": "x", "about": "y"}',
            "i18n/en.json": b'{"messages": {"hello": "Hello"}, "about": "About"}',
            "other chat.json": b'\xef\xbb\xbf{"about": "", "chats": {}}',
        },
    )
    result = extract(tmp_path / "in", tmp_path / "out")
    assert set(files_in(tmp_path / "out" / "000001-a.zip")) == {
        "Export/result.json", "Export/messages.html", "Export/messages2.html", "Other/lists/chats.html",
        "Other/export_results.html", "other chat.json",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "media.jsonl").read_text().splitlines()]
    assert {"entry": "000001-a.zip", "path": "Export/photos/photo_1.jpg", "size": 7} in lines
    (file,) = result["files"]
    assert file["counts"]["members"] == 6
    assert file["counts"]["media"] == len(lines) == 5
    assert {line["path"] for line in lines} == {
        "Export/photos/photo_1.jpg", "Other/lists/contacts.html", "package.json", "composer.json",
        "i18n/en.json",
    }  # fmt: skip
    assert file["counts"]["media_bytes"] == sum(line["size"] for line in lines)


def test_media_is_unpacked_on_request_and_not_counted_as_members(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "000001-a.zip", **{"result.json": EXPORT, "photos/a.jpg": b"jpg"})
    (file,) = extract(tmp_path / "in", tmp_path / "out", "--media")["files"]
    assert (file["counts"]["members"], file["counts"]["media"]) == (1, 1)
    assert files_in(tmp_path / "out" / "000001-a.zip") == {"result.json": EXPORT, "photos/a.jpg": b"jpg"}


def test_damaged_media_does_not_affect_messages(tmp_path: Path) -> None:
    archive = tmp_path / "in" / "000001-a.zip"
    pack(archive, **{"result.json": EXPORT})
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("photos/a.jpg", b"jpg jpg jpg")
    archive.write_bytes(archive.read_bytes().replace(b"jpg jpg jpg", b"jpg JPG jpg"))
    result = extract(tmp_path / "in", tmp_path / "out", "--media")
    assert result["files"][0]["status"] == "partial"
    assert "'photos/a.jpg' left out: it is damaged" in result["files"][0]["reason"]
    assert files_in(tmp_path / "out" / "000001-a.zip") == {"result.json": EXPORT}


def test_archives_of_over_4_gib_that_macos_writes_are_read(tmp_path: Path) -> None:
    """Without ZIP64: sizes and offsets are modulo 2**32, before and behind a video of over 4 GiB."""
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "000001-a.zip").open("wb") as file:
        write_raw_zip(
            file,
            RawEntry(b"a/result.json", EXPORT, flags=DESCRIPTOR, deflate=False),
            RawEntry(b"a/video_files/b.mp4", flags=DESCRIPTOR, deflate=False, hole=(4 << 30) + 5_000),
            RawEntry(b"c/result.json", EXPORT, flags=DESCRIPTOR, deflate=False),
            RawEntry(b"d/result.json", EXPORT, flags=DESCRIPTOR),
        )
    (file_,) = extract(tmp_path / "in", tmp_path / "out")["files"]
    assert (file_.get("status", "ok"), file_["counts"]["members"]) == ("ok", 3)
    written = files_in(tmp_path / "out" / "000001-a.zip")
    assert written == {f"{folder}/result.json": EXPORT for folder in "acd"}


def test_a_stored_member_of_over_4_gib_is_found_whole(tmp_path: Path) -> None:
    """Its stated size is modulo 2**32; what follows it shows where it ends."""
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        write_raw_zip(
            file,
            RawEntry(b"b.mp4", flags=DESCRIPTOR, deflate=False, hole=WRAP + 5_000),
            RawEntry(b"result.json", EXPORT, flags=DESCRIPTOR),
        )
    with open_archive(path, Budget(1 << 40, Limits())) as archive:
        (member, *_) = archive.members()
        ((_, chunks),) = archive.read([member])
        with pytest.raises(BadInput, match="wrong checksum"):  # the writer does not compute that of zeros
            assert sum(map(len, chunks)) == WRAP + 5_000


def test_bare_files_links_and_wrong_extensions_are_accepted(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "000001-result (2).json").write_bytes(EXPORT)
    (source / "000002-messages.html").write_bytes(b"<!DOCTYPE html><html></html>")
    (source / "000003-really json.zip").write_bytes(b"\xef\xbb\xbf\n" + EXPORT)
    pack(source / "000004-really a zip.json", **{"result.json": EXPORT})
    (tmp_path / "stored").mkdir()
    (source / "000005-linked.zip").symlink_to(pack(tmp_path / "stored" / "x", **{"result.json": EXPORT}))
    (source / "000006-linked.json").symlink_to(source / "000001-result (2).json")
    result = extract(source, tmp_path / "out")
    assert {file["name"] for file in result["files"] if file.get("status", "ok") == "ok"} == names_in(source)
    written = files_in(tmp_path / "out")
    assert written["000001-result (2).json/result.json"] == EXPORT
    assert written["000002-messages.html/messages.html"].startswith(b"<!DOCTYPE")
    assert written["000003-really json.zip/result.json"].endswith(EXPORT)
    assert written["000004-really a zip.json/result.json"] == EXPORT
    assert written["000005-linked.zip/result.json"] == EXPORT
    assert not (tmp_path / "out" / "000006-linked.json" / "result.json").is_symlink()


def test_other_users_cannot_read_what_is_extracted(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "000001-a.zip", **{"a/b/result.json": EXPORT, "a/p.jpg": b""})
    extract(tmp_path / "in", tmp_path / "out", "--media")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_a_complete_output_is_not_extracted_again(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "000001-a.zip", **{"result.json": EXPORT})
    first = extract(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in")
    assert extract(tmp_path / "in", tmp_path / "out") == first


def test_an_output_without_its_manifest_is_extracted_again(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "000001-a.zip", **{"result.json": EXPORT})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    extract(tmp_path / "in", tmp_path / "out")
    assert names_in(tmp_path / "out") == {"000001-a.zip", "manifest.json", "media.jsonl"}


def test_a_kill_leaves_no_output_and_the_next_run_removes_the_temporary_one(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", **{f"{n}/result.json": EXPORT for n in range(50)})
    (tmp_path / "in").mkdir()
    for number in range(400):
        (tmp_path / "in" / f"{number:06d}-a.zip").hardlink_to(archive)
    partial = tmp_path / ".out.partial" / "000001-a.zip"
    with subprocess.Popen([*STAGE, tmp_path / "in", tmp_path / "out"], stdout=subprocess.DEVNULL) as process:
        while not partial.exists():
            assert process.poll() is None, "it ended before it could be killed"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert partial.exists()
    assert len(extract(tmp_path / "in", tmp_path / "out")["files"]) == 400
    assert names_in(tmp_path) == {"a.zip", "in", "out"}


def test_a_full_disk_fails_the_stage_and_quarantines_no_file(tmp_path: Path) -> None:
    pack(tmp_path / "in" / "000001-a.zip", **{"result.json": EXPORT + b" " * 100_000})

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = stage(tmp_path / "in", tmp_path / "out", preexec_fn=small_files_only)
    assert done.returncode == 75
    assert b"File too large" in done.stderr
    assert done.stdout == b""
    assert names_in(tmp_path) == {"in"}
    extract(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "arguments", [[], ["in"], ["in", "out", "--no-such-option"], ["in", "out", "--max-bytes=x"]]
)
def test_wrong_usage_is_permanent(arguments: list[str]) -> None:
    done = stage(*arguments)
    assert done.returncode == 64
    assert b"usage: " in done.stderr


def test_a_missing_input_is_retried(tmp_path: Path) -> None:
    done = stage(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 75
    assert not (tmp_path / "out").exists()


def test_the_stage_starts_without_the_heavy_libraries() -> None:
    code = "import sys, flows.stages.extract.stage; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"prefect", "pyarrow", "pandas", "pydantic", "sqlalchemy"} & set(loaded)


def test_real_exports_are_extracted_unchanged(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.make_archive(str(tmp_path / "in" / "000001-all"), "zip", samples)
    for number, path in enumerate(sorted(samples.glob("*/*.json")), 2):
        shutil.copy(path, tmp_path / "in" / f"{number:06d}-{path.name}")
    result = extract(tmp_path / "in", tmp_path / "out")
    assert {file.get("status", "ok") for file in result["files"]} == {"ok"}
    for name, content in files_in(tmp_path / "out" / "000001-all.zip").items():
        assert content == (samples / name).read_bytes()
    assert result["files"][0]["counts"]["members"] == len(files_in(samples))
