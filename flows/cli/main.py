"""`tdp`: start the services, run the pipeline, show its state."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy import make_url

from flows import services
from flows.cli import backfill_command as backfill
from flows.cli import database, demo, files, hold_command, reports
from flows.cli.foreground import print_finished, run_inbox
from flows.cli.installed import apply as apply_all
from flows.cli.installed import installed
from flows.cli.signals import stop_on_signals
from flows.errors import ServiceFailed, TdpError
from flows.reports.prefect_api import request
from flows.samples import write_samples
from flows.settings import Settings
from flows.stages.runner.supervisor import adopt_orphans

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Telegram Desktop exports in, PostgreSQL tables out.\n\n"
        "Start with `tdp demo`; then run `tdp up` in one terminal and `tdp run FOLDER` in another. State is "
        "kept in .tdp below the current directory, or in the directory that TDP_HOME names.\n\n"
        "Exit status: 0 success, 1 failure (with a message), 2 wrong usage, 3 a run completed but files "
        "were not stored, or only in part, 130 interrupted."
    ),
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")]
ReplaceServer = Annotated[
    bool,
    typer.Option(
        "--replace-server",
        help="Let this Prefect server replace the one that the ledger belongs to, which must be stopped.",
    ),
]


def main() -> None:
    """Run the command line; print a TdpError as a message without a traceback, with exit status 1."""
    os.umask(0o077)  # private messages: only the user of this process may read the files it writes
    try:
        app()
    except TdpError as error:
        message = Text.assemble(("error:", "red"), " ", str(error))
        Console(stderr=True, highlight=False, soft_wrap=True).print(message)
        raise SystemExit(1) from error


app.command()(demo.demo)


@app.command()
def up(replace_server: ReplaceServer = False) -> None:
    """Start PostgreSQL, the Prefect server, a worker, recovery and the monitor; run until Ctrl-C."""
    settings, console = Settings(), Console(soft_wrap=True, highlight=False)
    adopt_orphans()
    with stop_on_signals():
        try:
            with services.installation(settings) as started:
                for change in apply_all(settings, replace_server):
                    console.print(change, style="dim")
                started.start(services.worker)
                started.start(services.recovery)
                started.start(services.monitoring)
                console.print(f"Prefect UI  {started.url}")
                console.print(f"Monitor     {services.monitor_url(settings)}/health and /metrics")
                console.print(f"Database    {make_url(settings.database)}")
                console.print(f"Inbox       {settings.inbox}")
                console.print(f"Logs        {settings.logs}")
                console.print("Ready. Press Ctrl-C to stop all services.")
                started.wait(console.print)
        except KeyboardInterrupt:
            console.print("Stopped.")
        finally:
            for orphan in psutil.Process().children(recursive=True):  # left by a worker that was killed
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()


@app.command()
def run(
    inbox: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Folder of source files, which are copied (default: the inbox).",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Source files per batch.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Batches in flight.")] = None,
    move: Annotated[
        bool, typer.Option("--move", help="Move received files out of the folder; the inbox always does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Process the files of a folder and show the progress.

    The files of a folder are copied, and the folder stays as it was; received files leave the inbox, and with
    --move any folder. Exit status: 0 if every file was stored, 1 if a batch failed, 3 if some files were not
    stored, or only in part: they are listed with the reason. Ctrl-C stops the run and holds its unfinished
    batches: `tdp resume` lets them go on.

    Uses the services that `tdp up` started; otherwise starts them for the duration of the run.
    """
    console = Console(stderr=as_json)
    parameters = {
        "inbox": str(inbox.resolve()) if inbox else None,
        "batch_size": batch_size,
        "window": window,
        "move": True if move else None,
    }
    with stop_on_signals(), installed(Settings()) as settings:
        finished = run_inbox(settings, parameters, console)
    if as_json:
        typer.echo(msgspec.json.encode(finished))
    else:
        print_finished(finished, console)
    not_received = any(file.is_error for file in finished.left)
    raise typer.Exit(finished.status or (3 if not_received else 0))


app.command()(backfill.backfill)
app.add_typer(hold_command.app)


@app.command()
def sample(
    directory: Annotated[Path, typer.Argument(file_okay=False, help="Folder to write into.")],
    files: Annotated[int, typer.Option(min=0, help="Number of valid source files.")] = 50,
    messages: Annotated[int, typer.Option(min=1, help="Messages in each source file.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 7,
    broken: Annotated[
        int, typer.Option(min=0, help="Number of invalid source files: truncated, encrypted, not an export.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write sample exports that resemble those of Telegram Desktop."""
    expected = write_samples(directory, files, messages, seed, broken)
    if as_json:
        typer.echo(msgspec.json.encode(expected))
    else:
        typer.echo(
            f"{expected.files} files, {expected.chats} chats, {expected.messages} messages in {directory}"
        )


@app.command()
def apply(replace_server: ReplaceServer = False, as_json: Json = False) -> None:
    """Apply limits, blocks, deployments and automations to the running server.

    Safe to repeat: the store limit and the values of block documents are preserved.
    """
    changes = apply_all(_reachable_settings(), replace_server)
    typer.echo(json.dumps(changes) if as_json else "\n".join(changes or ["Nothing to change."]))


@app.command()
def env(as_json: Json = False) -> None:
    """Print the environment variables with which `prefect` and other clients connect to this installation.

    Use it as: eval "$(tdp env)"
    """
    variables = services.environment(Settings())
    if as_json:
        typer.echo(json.dumps(variables))
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _reachable_settings() -> Settings:
    """Return the settings of a server that responds. Raises ServiceFailed."""
    settings = Settings()
    if found := services.running(settings):
        settings = found.settings
    elif settings.is_embedded:
        raise ServiceFailed(f"No services are running in {settings.root}. Start them with `tdp up`.")
    request(settings, "GET", "/api/admin/version")  # the server may not have been started by `tdp up`
    return settings


app.add_typer(reports.app)
app.add_typer(files.app, name="files")
app.add_typer(database.app)
