"""No line of a log is forged: by the name of a file, or by the message of an error."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest
from prefect.logging.formatters import PrefectFormatter
from prefect.logging.handlers import APILogHandler

from flows.reports.visible import make_logs_visible

NAME = "a\n12:00 extract completed\r\x1b[2J\u202egnp.\u2028zip"
SHOWN = "a\u240a12:00 extract completed\u240d\u241b[2J\ufffdgnp.\u2424zip"


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A log of a process whose logs are visible."""
    before = logging.getLogRecordFactory()
    make_logs_visible()
    yield logging.getLogger("visible")
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize("formatter", [logging.Formatter("| %(message)s"), PrefectFormatter("| %(message)s")])
def test_a_record_is_one_line_at_the_margin(log: logging.Logger, formatter: logging.Formatter) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    try:
        log.warning("Left: %s", NAME)
        try:
            raise ValueError(NAME)
        except ValueError:
            log.exception("Failed")
    finally:
        log.removeHandler(handler)
    lines = out.getvalue().split("\n")
    assert lines[:3] == [f"| Left: {SHOWN}", "| Failed", "  Traceback (most recent call last):"]
    assert all(line.startswith("  ") for line in lines[3:-1])
    assert not any(control in out.getvalue() for control in "\r\x1b\u202e\u2028")


def test_records_for_the_server_have_visible_control_characters(log: logging.Logger) -> None:
    run = {"flow_run_id": str(uuid4())}
    record = log.makeRecord(log.name, logging.INFO, "", 0, "Left: %s", (NAME,), None, extra=run)
    assert APILogHandler().prepare(record)["message"] == f"Left: {SHOWN}"
