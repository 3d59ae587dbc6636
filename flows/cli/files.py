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
from flows.cli.screen import Screen, echo, echo_json, note_more
from flows.operations.quarantine import Decided, drop_files, droppable, return_files
from flows.reports import text
from flows.services import ensure_ledger
from flows.settings import Settings

app = typer.Typer()

#: Ids are of PostgreSQL's type bigint.
_GREATEST = 2**63 - 1

All = Annotated[bool, typer.Option("--all", help="All quarantined files that were not returned or dropped.")]
AllToDrop = Annotated[bool, typer.Option("--all", help="All quarantined files, returned ones included.")]


class FileStatus(StrEnum):
    """The outcome of a source file; of a quarantined one, the decision of an operator if there is one."""

    waiting = "WAITING"
    stored = "STORED"
    partial = "PARTIAL"
    quarantined = "QUARANTINED"
    returned = "RETURNED"
    dropped = "DROPPED"


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

    A quarantined file stays in sources/ until it was returned or dropped, and is then listed as that.
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
            found = reports.duplicates(connection)[: -limit - 2 : -1]
        else:
            found = reports.source_files(connection, status=status and status.value, limit=limit + 1)
    shown = found if left else found[:limit]
    if as_json:
        _print_json(shown)
    else:
        page = Group(*map(_page, shown)) if shown else "No files."
        Screen(soft_wrap=True, highlight=False).print(page)
    if len(found) > len(shown):
        note_more(limit)


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
    if not directory or directory.isdecimal():  # an empty variable, or a forgotten folder
        raise typer.BadParameter(f"{directory!r} is not a folder: name it last, for example ./back")
    ids = _ids(given, every=every)
    asyncio.run(_return(ensure_ledger(Settings()), ids, Path(directory), as_json))


async def _return(settings: Settings, ids: list[int] | None, directory: Path, as_json: bool) -> None:
    """Return files, and print each one immediately: a later one may fail."""
    done: list[Decided] = []
    try:
        async for file in return_files(settings, ids, directory):
            done.append(file)
            if not as_json:
                echo(f"{file.id}  {file.name} -> {file.path}")
    except BaseException:
        if done:
            _print_count(done, as_json=as_json, verb="returned")
        raise
    _print_count(done, as_json=as_json, verb="returned")


@app.command()
def drop(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of files.")] = None,
    every: AllToDrop = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove quarantined files from sources/, now and for good. The ledger keeps their names and reasons."""
    settings = ensure_ledger(Settings())
    found = asyncio.run(droppable(settings, _ids(ids or [], every=every)))
    chosen = [file.id for file in found if not file.unchanged]
    if not as_json:
        for file in found:
            echo(f"{file.id}  {file.name}" + (f": unchanged, {file.unchanged}" if file.unchanged else ""))
    if chosen and not yes:
        typer.confirm(f"Remove {_count(len(chosen))} from sources/, for good?", abort=True, err=as_json)
    done = asyncio.run(drop_files(settings, chosen)) if chosen else []
    _print_count([*done, *(file for file in found if file.unchanged)], as_json=as_json, verb="dropped")


def _ids(given: list[str], *, every: bool) -> list[int] | None:
    if bool(given) == every:
        raise typer.BadParameter("name the ids of files, or use --all")
    if wrong := [value for value in given if not value.isdecimal() or int(value) > _GREATEST]:
        raise typer.BadParameter(f"{wrong[0]!r} is not an id: `tdp files` lists them")
    return None if every else [int(value) for value in given]


def _print_count(files: list[Decided], *, as_json: bool, verb: str) -> None:
    if as_json:
        echo_json(files)
    else:
        echo(f"{_count(sum(not file.unchanged for file in files))} {verb}.")


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
    if file.dropped_at:
        lines.append(f"dropped {pages.when(file.dropped_at)}")
    elif file.purged_at:
        lines.append(f"removed from sources/ {pages.when(file.purged_at)}")
    return Group(head, *(Text(f"    {line}") for line in lines))
