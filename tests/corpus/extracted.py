"""The extract stage as a process, and what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

STAGE = [sys.executable, "-m", "flows.stages.extract"]
EXPORT = b'{"name": "Chat", "type": "personal_chat", "id": 1, "messages": []}'


def stage(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*STAGE, *map(str, arguments)], capture_output=True, timeout=200, check=False, **options
    )


def extract(source: Path, output: Path, *options: object) -> dict[str, Any]:
    done = stage(source, output, *options)
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((output / "manifest.json").read_bytes()) == result
    return result


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


def pack(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
