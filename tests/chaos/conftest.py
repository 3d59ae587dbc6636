"""One plant for all tests of faults; each test has its own ledger and home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant

from flows import services
from flows.settings import Settings


@pytest.fixture(scope="session")
def sturdy(open_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Services apart from those of the other tests, for these are killed and restarted."""
    settings = Settings(home=open_folder / "plant", server_port=services.free_port())
    plant = Plant(settings, tmp_path_factory.mktemp("plant"))
    try:
        plant.start()
        yield plant
    finally:
        plant.stop()


@pytest.fixture
def plant(sturdy: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """The plant with an empty ledger and an empty home."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "TDP_")):
            monkeypatch.delenv(name)
    sturdy.renew(tmp_path)
    for name, value in services.environment(sturdy.settings).items():
        monkeypatch.setenv(name, value)
    try:
        with sturdy.client_settings():
            yield sturdy
    finally:
        sturdy.end_flows()
