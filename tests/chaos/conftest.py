"""A plant of its own for every test of faults."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant

from flows import services
from flows.settings import Settings


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "TDP_")):
            monkeypatch.delenv(name)
    # Not below pytest's own folder: the next pytest of this user closes that to PostgreSQL's user.
    home = tempfile.TemporaryDirectory(prefix="tdp-chaos-", ignore_cleanup_errors=True)
    settings = Settings(home=Path(home.name), server_port=services.free_port())
    plant = Plant(settings, tmp_path)
    for name, value in services.environment(settings).items():
        monkeypatch.setenv(name, value)
    try:
        plant.start()
        from prefect.settings import temporary_settings

        with temporary_settings({"api.url": os.environ["PREFECT_API_URL"]}):
            yield plant
    finally:
        plant.stop()
        home.cleanup()
