"""The hub of several hosts, for one test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lan import Hosts, missing


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A running hub without hosts; its home is kept if HOSTS_KEEP is set."""
    if reason := missing():
        pytest.skip(reason)
    # Not below pytest's own directory, which PostgreSQL's user cannot access.
    home = Path(tempfile.mkdtemp(prefix="tdp-hosts-"))
    home.chmod(0o711)
    try:
        with ExitStack() as stack:
            hosts = Hosts(home / "home", stack)
            hosts.settings.root.mkdir(mode=0o711)
            hosts.start_hub()
            yield hosts
    finally:
        if "HOSTS_KEEP" not in os.environ:
            shutil.rmtree(home)
