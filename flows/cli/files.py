"""`tdp files`: source files across batches; return or drop quarantined ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flows import reports
from flows.cli import pages
from flows.cli.reports import Json, _ledger, _print_json
from flows.cli.screen import Screen, echo, echo_json
from flows.operations.quarantine import Returned, drop_files, return_files
from flows.reports import text
from flows.services import ensure_ledger
from flows.settings import Settings

app = typer.Typer()

#: Ids are of PostgreSQL's type bigint.
_GREATEST = 2**63 - 1

All = Annotated[bool, typer.Option("--all", help="All quarantined files.")]


class FileStatus(StrEnum):
    """What became of a source file."""

    waiting = "WAITING"
    stored = "STORED"
    partial = "PARTIAL"
    quarantined = "QUARANTINED"


@app.callback(invoke_without_command=True)
def files(
    context: typer.Context,
    status: Annotated[
        FileStatus | None, typer.Option(case_sensitive=False, help="Only files with this status.")
    ] = None,
    left: Annotated[
        bool, typer.Option("--left", help="What the last runs left in their folders, and why.")
    ] = False,
    duplicates: Annotated[
        bool,
        typer.Option("--duplicates", help="Files whose content had been received before, and whose it is."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of files.")] = 100,
    as_json: Json = False,
) -> None:
    """List source files across batches, newest first, with the reason and the path they came from.

    A quarantined file stays in sources/ until it was returned or dropped.
    """
    if context.invoked_subcommand:
        return
    if left + duplicates + (status is not None) > 1:
        raise typer.BadParameter("use one of --status, --left and --duplicates")
    found: Sequence[reports.SourceLine | reports.LeftFile | reports.Duplicate]
    with _ledger() as connection:
        if left:
            found = reports.left_files(connection)
        elif duplicates:
            found = reports.duplicates(connection)[: -limit - 1 : -1]
        else:
            found = reports.source_files(connection, status=status and status.value, limit=limit)
    if as_json:
        _print_json(found)
        return
    console = Screen(soft_wrap=True, highlight=False)
    console.print(Group(*map(_page, found)) if found else "No files.")


@app.command("return")
def return_(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[ID]... DIR", help="Ids of files, and the folder to copy them to.")
    ],
    every: All = False,
    as_json: Json = False,
) -> None:
    """Copy source files to a folder under their own names; with --all the quarantined ones not yet returned.

    The stored file is kept for its retention time, which then starts. No file is overwritten.
    """
    *given, directory = arguments
    ids = _ids(given, every=every)
    done = asyncio.run(return_files(ensure_ledger(Settings()), ids, Path(directory)))
    _print(done, as_json=as_json, verb="returned")


@app.command()
def drop(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of files.")] = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove quarantined files from sources/, now and for good. The ledger keeps their names and reasons."""
    chosen = _ids(ids or [], every=every)
    if not yes:
        what = "all quarantined files" if chosen is None else _count(len(chosen))
        typer.confirm(f"Remove {what} from sources/?", abort=True)
    _print(asyncio.run(drop_files(ensure_ledger(Settings()), chosen)), as_json=as_json, verb="dropped")


def _ids(given: list[str], *, every: bool) -> list[int] | None:
    if bool(given) == every:
        raise typer.BadParameter("name the ids of files, or use --all")
    if wrong := [value for value in given if not value.isdecimal() or int(value) > _GREATEST]:
        raise typer.BadParameter(f"{wrong[0]!r} is no id: `tdp files` lists them")
    return None if every else [int(value) for value in given]


def _print(done: list[Returned], *, as_json: bool, verb: str) -> None:
    if as_json:
        echo_json(done)
        return
    for file in done:
        echo(f"{file.id}  {file.name}" + (f" -> {file.path}" if file.path else ""))
    echo(f"{_count(len(done))} {verb}.")


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _page(file: reports.SourceLine | reports.LeftFile | reports.Duplicate) -> RenderableType:
    if isinstance(file, reports.Duplicate):
        came = f"    from    {file.origin}, {pages.when(file.received_at)}"
        return Group(pages.duplicate(file), Text(came))
    if isinstance(file, reports.LeftFile):
        return Group(Text(f"{file.folder}/{file.name}"), Text(f"    reason  {file.reason}"))
    head = Text.assemble(
        f"{file.id}  ", pages.coloured(file.status), f"  {file.batch_id or 'no batch yet'}  {file.name}"
    )
    lines = [
        f"from    {file.origin}",
        f"size    {text.size(file.size_bytes)}, {pages.when(file.received_at)}",
    ]
    if file.reason:
        lines.append(f"reason  {file.reason}")
    if file.returned_at:
        lines.append(f"returned {pages.when(file.returned_at)}")
    if file.purged_at:
        lines.append(f"removed from sources/ {pages.when(file.purged_at)}")
    return Group(head, *(Text(f"    {line}") for line in lines))
