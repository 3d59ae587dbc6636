"""`tdp demo`: process sample exports in a separate home, and compare the rows with the expected counts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import msgspec
import typer

from flows import services
from flows.cli.foreground import Finished, print_finished, run_inbox
from flows.cli.installed import apply
from flows.cli.screen import Screen, echo_json
from flows.cli.signals import stop_on_signals
from flows.ledger.connection import connection
from flows.reports import text
from flows.samples import write_samples
from flows.settings import Settings

_SEED = 7


class Rows(msgspec.Struct):
    """Counts of rows in the database: expected or found."""

    files: int
    chats: int
    messages: int


class Demo(msgspec.Struct):
    """The run of a demo, with the expected counts of rows and those found."""

    run: Finished
    expected: Rows
    found: Rows
    seconds: float

    @property
    def status(self) -> int:
        """Exit status: 0 if the run completed and every row was found."""
        return self.run.status if self.found == self.expected else 1


def demo(
    files: Annotated[int, typer.Option(min=1, help="Number of source files.")] = 50,
    messages: Annotated[int, typer.Option(min=1, help="Messages in each source file.")] = 100,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the services running until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")
    ] = False,
) -> None:
    """Process sample exports and verify every row. Exit status 0 if all rows were found.

    All state is in the folder demo of the home, which is created again for each demo.
    """
    console = Screen(stderr=as_json, highlight=False)
    settings, began = _demo_settings(), time.monotonic()
    with stop_on_signals():
        services.remove(settings)
        written = write_samples(settings.inbox, files, messages, _SEED)
        expected = Rows(written.files, written.chats, written.messages)
        console.print(f"{expected.files} sample exports, {expected.messages:,} messages, in {settings.inbox}")
        with services.installation(settings, report=console.print) as started:
            console.print(f"PostgreSQL and the Prefect server are running: {started.url}")
            apply(settings)
            run = run_inbox(settings, {}, console)
            done = Demo(run, expected, _rows(settings), time.monotonic() - began)
            if as_json:
                echo_json(done)
            else:
                _print(done, settings, console)
            if keep:
                started.start(services.worker)
                console.print("The services keep running until Ctrl-C.")
                with suppress(KeyboardInterrupt):
                    started.wait(console.print)
    raise typer.Exit(done.status)


def _demo_settings() -> Settings:
    """Return settings with a home below the home, its own embedded PostgreSQL, and a free port."""
    settings = Settings()
    host, port = settings.server_host, settings.server_port
    port = port if services.is_free(host, port) else services.free_port(host)
    return settings.model_copy(
        update={"home": settings.root / "demo", "database_url": None, "server_port": port}
    )


def _rows(settings: Settings) -> Rows:
    with connection(settings.database) as ledger, ledger.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM source_files), (SELECT count(*) FROM chats), "
            "(SELECT count(*) FROM messages)"
        )
        return Rows(*cursor.fetchall()[0])


def _print(done: Demo, settings: Settings, console: Screen) -> None:
    print_finished(done.run, console)
    if done.found == done.expected:
        console.print("[green]All expected rows are in PostgreSQL.[/]")
    else:
        console.print(f"[red]The rows differ[/]: expected {done.expected}, found {done.found}.")
    console.print(
        f"Total: {text.seconds(done.seconds)}. To inspect the result: TDP_HOME={settings.root} tdp up"
    )
