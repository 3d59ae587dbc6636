"""What we rely on in libraries and is not in their documentation: see deployments/UPGRADING_PREFECT.md."""

from __future__ import annotations

import io
import re
from pathlib import Path

import py7zr
import pytest
import uvloop
from py7zr import archiveinfo
from py7zr.exceptions import ArchiveError
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "deployments" / "UPGRADING_PREFECT.md"


@pytest.mark.parametrize("limit", ["MAX_NUMFILES", "MAX_NUMFOLDERS", "MAX_HEADER_SIZE"])
def test_py7zr_reads_its_limits_when_it_opens_an_archive(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with py7zr.SevenZipFile(packed, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}", f"{number}.txt")
    with py7zr.SevenZipFile(io.BytesIO(packed.getvalue())) as archive:
        assert len(archive.files) == 3
    monkeypatch.setattr(archiveinfo, limit, 0)
    with pytest.raises(ArchiveError, match=r"limit|exceeds"):
        py7zr.SevenZipFile(io.BytesIO(packed.getvalue()))


def test_uvicorn_and_so_the_prefect_server_uses_httptools_and_uvloop() -> None:
    assert AutoHTTPProtocol.__module__ == "uvicorn.protocols.http.httptools_impl"
    assert auto_loop_factory(use_subprocess=False) is uvloop.new_event_loop


def test_every_guard_that_the_page_names_exists() -> None:
    named = re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)(?:::(\w+))?`", PAGE.read_text())
    assert named
    for file, test in named:
        path = TESTS / file if "/" in file else TESTS / "integration" / file
        assert not test or f"def {test}(" in path.read_text(), f"{file}::{test}"
        assert path.exists()
