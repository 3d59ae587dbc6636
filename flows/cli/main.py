"""`tdp`: start the services, run the pipeline, show its state."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psutil
import psycopg
import psycopg2
import typer
from pydantic import ValidationError
from rich.console import Group
from rich.text import Text

from flows import services
from flows.cli import backfill_command as backfill
from flows.cli import (
    bot_command,
    chat_command,
    database,
    demo,
    denials,
    export_command,
    files,
    hold_command,
    reports,
    search_command,
    stats_command,
)
from flows.cli.foreground import print_finished, run_inbox
from flows.cli.installed import APPLYING, installed
from flows.cli.installed import apply as apply_all
from flows.cli.screen import Screen, echo, echo_json
from flows.cli.settling import source_folder
from flows.cli.signals import discard_output, stop_on_signals
from flows.cli.streams import open_closed_streams
from flows.cli.umask import make_private
from flows.errors import TdpError, in_one_line
from flows.ledger.schema_version import sqlalchemy_url
from flows.reports import text
from flows.reports.prefect_api import request
from flows.samples import write_samples
from flows.settings import Settings
from flows.stages.runner.supervisor import adopt_orphans

app = typer.Typer(
    cls=denials.Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
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
        help="Let this Prefect server replace that of the ledger; the other one must be stopped.",
    ),
]

#: The services that `tdp up` starts after PostgreSQL and the Prefect server.
_SERVICES = {
    "the worker": services.worker,
    "recovery": services.recovery,
    "the monitor": services.monitoring,
}
_INTERRUPTED = 130
#: Errors with a cause outside of the program, which an operator can remove.
_REPORTED = (
    TdpError,
    OSError,
    ValidationError,
    UnicodeEncodeError,
    psycopg.OperationalError,
    psycopg2.DataError,
    psycopg2.OperationalError,
)


def main() -> None:
    """Run the command line; print the errors below as a message without a traceback, with exit status 1."""
    make_private()
    open_closed_streams()
    try:
        app()
    except BrokenPipeError:  # the program that reads the output has ended, as `head` does
        discard_output()
        raise SystemExit(1) from None
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            discard_output()
        raise
    except _reported() as error:
        first, *lines = (isinstance(error, TdpError) and error.args) or [describe(error)]
        message = Text.assemble(("error:", "red"), " ", str(first))
        Screen(stderr=True, highlight=False, soft_wrap=True).print(Group(message, *map(Text, lines)))
        raise SystemExit(1) from error


def _reported() -> tuple[type[Exception], ...]:
    """Return _REPORTED with the error of SQLAlchemy if it is loaded; most commands start without it."""
    loaded = sys.modules.get("sqlalchemy.exc")
    return (*_REPORTED, loaded.OperationalError) if loaded else _REPORTED


def describe(error: Exception) -> str:
    """Return the error together with the file, or the environment variable, that it concerns."""
    if original := getattr(error, "orig", None):  # of SQLAlchemy
        return in_one_line(original)
    if isinstance(error, UnicodeEncodeError):
        return f"{text.short(ascii(error.object))} cannot be encoded as {error.encoding.upper()}"
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    if isinstance(error, ValidationError):
        problems = [(_variable(problem["loc"]), problem["msg"]) for problem in error.errors()]
        return "; ".join(f"{name}: {message.removeprefix('Value error, ')}" for name, message in problems)
    return in_one_line(error)


def _variable(location: tuple[int | str, ...]) -> str:
    """Return the name of the environment variable that a setting is read from."""
    name = str(location[0]) if location else "settings"
    return name if name.isupper() else f"TDP_{name.upper()}"


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"tdp {version('telegram-data-processor')}, Prefect {version('prefect')}")
        raise typer.Exit


@app.callback(help=app.info.help)
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions.")
    ] = False,
) -> None:
    """Print the versions if they are asked for; the help text of the program is above."""


app.command()(demo.demo)


@app.command()
def up(replace_server: ReplaceServer = False) -> None:
    """Start PostgreSQL, the Prefect server, a worker, recovery and the monitor; run until Ctrl-C.

    The Telegram bot is started too if it has a token: in TDP_BOT_TOKEN, or in the block tdp-telegram.
    """
    settings, console = Settings(), Screen(soft_wrap=True, highlight=False)
    adopt_orphans()
    with stop_on_signals():
        try:
            with services.installation(settings, with_monitor=True, report=console.print) as started:
                console.print(APPLYING)
                for change in apply_all(settings, replace_server):
                    console.print(change, style="dim")
                for name, service in _SERVICES.items():
                    console.print(f"Starting {name}")
                    started.start(service)
                if bot_command.has_token(started.settings):
                    console.print("Starting the Telegram bot")
                    started.start(services.bot, is_optional=True)
                console.print(f"Prefect UI  {started.url}")
                console.print(f"Monitor     {services.monitor_url(settings)}/health and /metrics")
                console.print(f"Database    {sqlalchemy_url(settings.database).set(drivername='postgresql')}")
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
            callback=source_folder,
            metavar="FOLDER",
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

    The files of a folder are copied, and the folder is not changed; received files leave the inbox, and with
    --move any folder. Exit status: 0 if every file was stored, 1 if a batch failed, 3 if some files were not
    stored, or only in part: they are listed with the reason. Ctrl-C stops the run and holds its unfinished
    batches: `tdp resume` releases them.

    Uses the services that `tdp up` started; otherwise starts them for the duration of the run.
    """
    console = Screen(stderr=as_json)
    parameters = {
        "inbox": str(inbox.resolve()) if inbox else None,
        "batch_size": batch_size,
        "window": window,
        "move": True if move else None,
    }
    with stop_on_signals(), installed(Settings(), console.print) as settings:
        finished = run_inbox(settings, parameters, console)
    if as_json:
        echo_json(finished)
    else:
        print_finished(finished, console)
    raise typer.Exit(finished.status or (3 if any(file.is_error for file in finished.left) else 0))


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
        echo_json(expected)
    else:
        echo(f"{expected.files} files, {expected.chats} chats, {expected.messages} messages in {directory}")


@app.command()
def apply(replace_server: ReplaceServer = False, as_json: Json = False) -> None:
    """Apply limits, blocks, deployments and automations to the running server.

    Safe to repeat: the store limit and the values of block documents are preserved.
    """
    changes = apply_all(_reachable_settings(), replace_server)
    echo(*([json.dumps(changes)] if as_json else changes or ["Nothing to change."]))


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
    settings = services.ensure_ledger(Settings())
    request(settings, "GET", "/api/admin/version")  # the server may not have been started by `tdp up`
    return settings


app.add_typer(reports.app)
app.command("export")(export_command.export_)
app.command("search", cls=search_command.WordsMayHaveMinus)(search_command.search_)
app.command()(stats_command.stats)
app.command("chat")(chat_command.chat_)
app.add_typer(files.app, name="files")
app.add_typer(bot_command.app, name="bot")
app.add_typer(database.app)
