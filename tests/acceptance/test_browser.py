"""Operators in the Prefect UI, in a real browser: retry, cancel, and see the holder of a slot."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from flows.ledger.locks import FENCE, QUEUE

if TYPE_CHECKING:
    from conftest import Installed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Root in a container has no sandbox. The other flags prevent connections to other hosts.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-3d-apis",  # the graph of runs, drawn in software, would take more CPU time than the runs
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Milliseconds. The pages poll the server every few seconds.
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser with a profile of its own."""
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        yield page


def open_run(page: Page, up: Installed, run_id: str, kind: str = "flow-run", tab: str = "Logs") -> None:
    page.goto(f"{up.url}/v2/runs/{kind}/{run_id}?tab={tab}")


def leave(page: Page) -> None:
    """Close the open page: a page of Prefect is redrawn continuously while it is open."""
    page.goto("about:blank")


def choose(page: Page, action: str, confirm: str) -> None:
    """Choose an action from the menu of the run, and confirm it."""
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name=action).click()
    page.get_by_role("dialog").or_(page.get_by_role("alertdialog")).get_by_role(
        "button", name=confirm
    ).click()


def retry(page: Page, up: Installed, run_id: str) -> None:
    """Retry the open run, and see that it is completed."""
    choose(page, "Retry", "Retry")
    retried = up.ended(run_id, runs=2)
    assert retried["state_name"] == "Completed", retried["state"]["message"]
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    leave(page)


def assert_two_batches_failed(run: dict[str, Any], named: str) -> None:
    assert run["state_name"] == "Failed"
    assert "2 of 3 batches failed" in run["state"]["message"]
    assert f"{named} (StageFailed: " in run["state"]["message"]
    assert "broken on purpose" in run["state"]["message"]


def fail_and_retry_alone(page: Page, up: Installed, batch: str, flag: Path) -> None:
    """Run the batch by itself, which fails; retry that run after the cause is removed."""
    alone = up.run_deployment("process-batch/adhoc", batch_id=batch)
    assert up.ended(alone)["state_name"] == "Failed"
    flag.unlink()
    open_run(page, up, alone)
    retry(page, up, alone)
    assert up.stage_runs(batch) == [
        ("extract", 1, "COMPLETED"),
        ("convert", 1, "FAILED"),
        ("convert", 2, "FAILED"),
        ("convert", 3, "COMPLETED"),
        ("store", 1, "COMPLETED"),
    ]


def test_retry_of_a_flow_run_processes_its_unfinished_batches(page: Page, up: Installed) -> None:
    up.edit_block("tdp-pipeline", "tdp", task_retries=0)
    up.obstruct("convert")
    done, left, mended = up.next_batches(3)
    flags = {batch: up.flag(batch, "fail") for batch in (left, mended)}
    expected = up.drop(3, seed=11)
    before = up.query("SELECT count(*) AS n FROM messages")[0]["n"]

    parent = up.run_deployment("process-inbox/scheduled", batch_size=1)
    assert_two_batches_failed(up.ended(parent), left)
    assert up.statuses(done, left, mended) == ["COMPLETED", "FAILED", "FAILED"]
    fail_and_retry_alone(page, up, mended, flags[mended])
    ran = {batch: up.stage_runs(batch) for batch in (done, mended)}

    # The retried run must not claim new files: Prefect identifies its children by their position in the list.
    later = up.drop(1, seed=12)
    flags[left].unlink()
    open_run(page, up, parent)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    retry(page, up, parent)

    assert {batch: up.stage_runs(batch) for batch in ran} == ran  # completed batches did not run again
    assert up.stage_runs(left) == [
        ("extract", 1, "COMPLETED"),
        ("convert", 1, "FAILED"),
        ("convert", 2, "COMPLETED"),
        ("store", 1, "COMPLETED"),
    ]
    assert up.statuses(done, left, mended) == ["COMPLETED"] * 3
    children = up.filter("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [parent]}})
    completed = [child for child in children if child["state_type"] == "COMPLETED"]
    assert sorted(child["parameters"]["batch_id"] for child in completed) == [done, done, left, mended]
    assert all(child["name"] == child["parameters"]["batch_id"] for child in children)
    stored = up.query("SELECT count(*) AS n FROM messages")[0]["n"] - before
    assert stored == expected.messages

    waiting = list(up.settings.inbox.iterdir())
    assert len(waiting) == later.files
    for file in waiting:
        file.unlink()


def test_waiting_task_run_names_the_holder_and_cancel_ends_both(page: Page, up: Installed) -> None:
    up.obstruct("extract")
    batches = up.next_batches(2)
    for batch in batches:
        up.flag(batch, "hold")
    expected = up.drop(2, seed=21)
    before = up.query("SELECT count(*) AS n FROM messages")[0]["n"]
    parent = up.run_deployment("process-inbox/scheduled", batch_size=1)

    assert_the_holder_is_named(page, up, batches)
    cancel(page, up, parent, batches)

    up.clear()
    up.type("tdp", "resume", *batches)  # what was cancelled is held until an operator says so
    assert up.ended(up.run_deployment("process-inbox/scheduled"))["state_name"] == "Completed"
    for batch in batches:
        assert up.stage_runs(batch)[1:] == [
            ("extract", 2, "COMPLETED"),
            ("convert", 1, "COMPLETED"),
            ("store", 1, "COMPLETED"),
        ]
    assert up.query("SELECT count(*) AS n FROM messages")[0]["n"] - before == expected.messages


def assert_the_holder_is_named(page: Page, up: Installed, batches: list[str]) -> None:
    """See that the task run of the waiter names the holder, in its state and in the log of its page."""
    holder = up.at_work()
    (waiter,) = {*batches} - {holder["batch_id"]}
    waiting = up.until(lambda: _in_state(up, f"extract-{waiter}", "Waiting for extract"))
    working = up.task_run(f"extract-{holder['batch_id']}")
    held = f"Held by {holder['batch_id']} since {holder['fenced_at']:%H:%M:%S} UTC"
    assert waiting["state"]["message"] == f"{held} ({holder['host']} pid {holder['pid']})"
    assert working
    assert working["state_name"] == "Running"
    up.until(lambda: up.has_logged(waiting["id"], held))  # the page loads the log only once
    open_run(page, up, waiting["id"], "task-run")
    expect(page.get_by_text("Waiting for extract", exact=True).first).to_be_visible()
    expect(page.get_by_text(held)).to_be_visible()


def cancel(page: Page, up: Installed, parent: str, batches: list[str]) -> None:
    """Cancel the run: its work ends, its batches are queued, and lease and fence are released."""
    (work,) = up.until(up.works)
    open_run(page, up, parent)
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    choose(page, "Cancel", "Cancel Flow Run")
    work.wait(10)
    up.until(lambda: up.statuses(*batches) == ["QUEUED", "QUEUED"], 10)
    cancelled = [[("extract", 1, "CANCELLED")]] * 2
    up.until(lambda: [up.stage_runs(batch) for batch in batches] == cancelled, 10)
    # The rows are closed before the lane releases its lease and its fence.
    up.until(lambda: up.query("SELECT * FROM advisory_locks WHERE space IN (%s, %s)", FENCE, QUEUE) == [], 10)
    up.until(lambda: up.get("v2/concurrency_limits/extract")["active_slots"] == 0, 10)
    assert up.ended(parent)["state_name"] == "Cancelled"
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    leave(page)
    # A child run whose process ended before it could report this is cancelled by Prefect's own clean-up.
    wanted = {"parent_flow_run_id": {"any_": [parent]}}
    up.until(
        lambda: [run["state_name"] for run in up.filter("flow_runs", flow_runs=wanted)] == ["Cancelled"] * 2
    )


def test_task_retries_are_shown_with_their_reason(page: Page, up: Installed) -> None:
    up.obstruct("extract")
    batches = up.next_batches(2)
    once = {batch: up.flag(batch, "once.a") for batch in batches}
    holds = {batch: up.flag(batch, "hold") for batch in batches}
    for batch in batches:
        up.flag(batch, "once.b")
    up.drop(2, seed=31)
    parent = up.run_deployment("process-inbox/scheduled", batch_size=1)

    holder = up.at_work()["batch_id"]
    (waiter,) = {*batches} - {holder}
    up.until(lambda: _in_state(up, f"extract-{waiter}", "Waiting for extract"))
    for hold in holds.values():
        hold.unlink()
    up.until(lambda: not once[holder].exists())
    holds[holder].touch()
    retrying = up.until(lambda: _in_state(up, f"extract-{holder}", "Retrying"))
    up.until(lambda: up.has_logged(retrying["id"], "Retry 1/3 will start"))
    open_run(page, up, retrying["id"], "task-run")
    expect(page.get_by_text("Retrying", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile("broken on purpose for once.* Retry 1/3 will start"))).to_be_visible()
    leave(page)
    holds[holder].unlink()

    assert up.ended(parent)["state_name"] == "Completed"
    for batch in batches:
        assert up.stage_runs(batch)[:3] == [
            ("extract", 1, "FAILED"),
            ("extract", 2, "FAILED"),
            ("extract", 3, "COMPLETED"),
        ]
    tried = ["AwaitingRetry", "Retrying"]
    states = up.until(lambda: _history(up, f"extract-{waiter}"))
    names = [name for name, _ in groupby(state["name"] for state in states)]
    assert names[:4] == ["Pending", "Running", "Waiting for extract", "Running"]
    working = [name for name, _ in groupby(name for name in names if name != "Waiting for extract")]
    assert working == ["Pending", "Running", *tried, *tried, "Completed"]


def _history(up: Installed, task_run: str) -> list[dict[str, Any]]:
    """Return the states of a task run in order; empty until it has ended."""
    found = up.task_run(task_run)
    assert found
    if found["state_type"] not in ("COMPLETED", "FAILED"):
        return []
    states: list[dict[str, Any]] = up.get(f"task_run_states/?task_run_id={found['id']}")
    return sorted(states, key=lambda state: str(state["timestamp"]))


def _in_state(up: Installed, task_run: str, state: str) -> dict[str, Any] | None:
    found = up.task_run(task_run)
    return found if found and found["state_name"] == state else None
