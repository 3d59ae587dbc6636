"""Make the pictures of the README from a real run: the Prefect UI, and the timeline of the lanes.

usage: make_pictures.py FOLDER

Starts an installation of its own (temporary home, free ports), processes 60 sample exports in 12 batches and
writes FOLDER/prefect-ui.png while batches wait for extract, and FOLDER/timeline.svg when all are completed.
It uses what operators use: commands, block documents and the Prefect API. Needs the system's Chromium.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
from playwright.sync_api import Page, sync_playwright

BIN = Path(sys.executable).parent
WITNESS = Path(__file__).parents[1] / "programs" / "witness.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: The root user of a container has no sandbox; the browser must not contact anything but the Prefect server.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Seconds that each program takes beyond its work; extract takes longer than convert, so batches wait for it.
PACE = {"extract": 5, "convert": 4, "store": 9}
FILES, BATCH_SIZE, COMPLETED_WHEN_TAKEN = 60, 5, 1
#: Rows of the graph whose task runs are shown: a batch that is being stored, and the last one, which waits.
EXPANDED = (3, 7)
#: The graph's panel has 384 pixels; with task runs shown it needs more to be read.
TALLER = "div:has(> div > canvas) { height: 520px !important }"
WIDTH, HEIGHT = 1280, 700
#: Takes a PNG in base64; returns [x, top, bottom] of the first bar of each row (blue: running, green: done).
FIND_BARS = """async (png) => {
  const image = new Image(); image.src = "data:image/png;base64," + png; await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), drawing = canvas.getContext("2d");
  drawing.drawImage(image, 0, 0);
  const pixels = drawing.getImageData(0, 0, image.width, image.height).data, bars = [];
  const isBar = (x, y) => {
    const at = (y * image.width + x) * 4, [red, green, blue] = pixels.subarray(at, at + 3);
    return (red < 30 && green < 100 && blue > 100) || (red < 60 && green > 130 && blue < 110);
  };
  for (let y = 30; y < image.height - 20; y++) {
    let x = 0;
    while (x < image.width && ![0, 1, 2, 3, 4].every(step => isBar(x + step, y))) x++;
    if (x === image.width) continue;
    if (bars.length && bars.at(-1)[2] === y - 1) bars.at(-1)[2] = y; else bars.push([x, y, y]);
  }
  return bars;
}"""
T = TypeVar("T")


class Installation:
    """A running `tdp up` in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {name: value for name, value in os.environ.items() if not name.startswith(("TDP_", "PREFECT_"))}
        ports = free_ports(2)
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.environment = own | {
            "TDP_HOME": str(folder / "home"),
            "TDP_SERVER_PORT": str(ports[0]),
            "TDP_MONITOR_PORT": str(ports[1]),
            "TDP_SETTLE_SECONDS": "0",
        }

    @contextmanager
    def up(self) -> Iterator[None]:
        """Keep `tdp up` running during the block, and stop all of it afterwards."""
        log = self.folder / "up.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [BIN / "tdp", "up"], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            until(lambda: "Ready." in log.read_text() or process.poll() is not None)
            if process.poll() is not None:
                sys.exit(log.read_text())
            self.environment |= json.loads(self.run("tdp", "env", "--json"))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a command of the installation and return what it printed."""
        command = [BIN / program, *arguments]
        return subprocess.run(
            command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def send(self, method: str, path: str, **body: object) -> Any:
        """Send a request to the Prefect API and return the response, parsed."""
        response = httpx.request(method, f"{self.url}/api/{path}", json=body or None, timeout=30)
        response.raise_for_status()
        return response.json() if response.content else None

    def slow_down(self) -> None:
        """Replace the stages' programs by ones that take longer, and fail when a second copy runs."""
        for stage, seconds in PACE.items():
            mark = f"{self.folder}/{stage}" + ("-{batch_id}" if stage == "store" else "")
            command = [sys.executable, str(WITNESS), mark, str(seconds), stage, "{input}", "{output}"]
            path = f"block_types/slug/tdp-stage-command/block_documents/name/{stage}"
            document = self.send("GET", path)["id"]
            values = {"data": {"command": command}, "merge_existing_data": True}
            self.send("PATCH", f"block_documents/{document}", **values)

    def start_run(self) -> str:
        """Start process-inbox on sample exports and return the id of its flow run."""
        inbox = self.folder / "samples"
        self.run("tdp", "sample", inbox, "--files", str(FILES))
        self.run("prefect", "deployment", "schedule", "pause", "--all")
        deployment = self.send("GET", "deployments/name/process-inbox/scheduled")["id"]
        parameters = {"inbox": str(inbox), "batch_size": BATCH_SIZE}
        path = f"deployments/{deployment}/create_flow_run"
        run = self.send(
            "POST", path, name="sixty-exports", parameters=parameters, state={"type": "SCHEDULED"}
        )
        return str(run["id"])

    def completed(self, flow_run_id: str) -> int:
        """Return how many batches of the run are completed."""
        wanted = {
            "parent_flow_run_id": {"any_": [flow_run_id]},
            "state": {"type": {"any_": ["COMPLETED"]}},
        }
        return len(self.send("POST", "flow_runs/filter", flow_runs=wanted))


def free_ports(count: int) -> list[int]:
    """Return ports of loopback on which nothing listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def until(condition: Callable[[], T], seconds: float = 180) -> T:
    """Return the first true value of ``condition()``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"It did not happen within {seconds:g} s.")
        time.sleep(0.2)
    return value


@contextmanager
def browser_page() -> Iterator[Page]:
    """Yield a page of a headless Chromium with a profile of its own."""
    if CHROMIUM is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})


def take_run_page(page: Page, out: Path) -> None:
    """Write a screenshot of the open page of a flow run, with the task runs of some batches shown."""
    page.reload()  # a new graph shows all of the run
    page.add_style_tag(content=TALLER)
    page.mouse.move(0, 0)
    bars = until(lambda: settled_bars(page))
    box = page.locator("canvas").first.bounding_box()
    assert box
    for row in reversed(EXPANDED):  # from the bottom: what is expanded moves only the rows below it
        x, top, bottom = bars[row]
        page.mouse.click(box["x"] + x + 10, box["y"] + (top + bottom) / 2)
        page.wait_for_timeout(300)
    page.wait_for_timeout(2500)  # the task runs are loaded, and the rows move apart
    page.mouse.click(box["x"] + box["width"] - 114, box["y"] + box["height"] - 26)  # fits all into the panel
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)
    page.screenshot(path=out)


def settled_bars(page: Page) -> list[list[int]]:
    """Return the bars of all rows; an empty list while rows are missing or the graph moves."""
    bars = find_bars(page)
    page.wait_for_timeout(500)
    return bars if len(bars) > max(EXPANDED) and bars == find_bars(page) else []


def find_bars(page: Page) -> list[list[int]]:
    """Return the place of the first bar of each row of the graph, in its panel's pixels."""
    picture = base64.b64encode(page.locator("canvas").first.screenshot()).decode()
    bars: list[list[int]] = page.evaluate(FIND_BARS, picture)
    return bars


def main(folder: Path) -> None:
    """Make both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="tdp-pictures-") as temporary, browser_page() as page:
        installation = Installation(Path(temporary))
        with installation.up():
            installation.slow_down()
            run = installation.start_run()
            page.goto(f"{installation.url}/v2/runs/flow-run/{run}")  # so that it opens quickly when it counts
            until(lambda: installation.completed(run) >= COMPLETED_WHEN_TAKEN)
            take_run_page(page, folder / "prefect-ui.png")
            until(lambda: installation.completed(run) == FILES // BATCH_SIZE)
            installation.run("tdp", "timeline", folder / "timeline.svg", "--run", run)
    for picture in ("prefect-ui.png", "timeline.svg"):
        (folder / picture).chmod(0o644)  # what `tdp` writes is private
        sys.stdout.write(f"{folder / picture}: {(folder / picture).stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
