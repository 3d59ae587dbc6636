"""`tdp hold` and `tdp resume`: keep batches from being processed, and let them be processed again."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from flows.cli.batch_ids import HELP, complete_id
from flows.cli.screen import echo
from flows.errors import BatchUnknown
from flows.ledger.session import connect, fetch
from flows.services import ensure_ledger
from flows.settings import Settings

app = typer.Typer()

Batches = Annotated[
    list[str] | None, typer.Argument(parser=complete_id, metavar="BATCH", help=HELP, show_default=False)
]


@app.command()
def hold(
    batches: Batches = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All batches that are not completed or failed.")
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why; shown with the batches.")
    ] = "an operator held it with `tdp hold`",
) -> None:
    """Hold batches: schedules and recovery do not process them until `tdp resume`.

    A stage that is at work finishes; a stage that waits leaves its queue within seconds. Retry of a run and
    `tdp backfill` process held batches as well.
    """
    done, skipped = asyncio.run(_change("hold_batches", _ids(batches, everything), reason=reason))
    _print(done, "held", skipped)


@app.command()
def resume(
    batches: Batches = None,
    everything: Annotated[bool, typer.Option("--all", help="All held batches.")] = False,
) -> None:
    """Resume held batches: the next run continues each at its first unfinished stage."""
    done, skipped = asyncio.run(_change("resume_batches", _ids(batches, everything)))
    _print(done, "resumed; the next run continues it", skipped)


def _ids(batches: list[str] | None, everything: bool) -> list[str] | None:
    if bool(batches) == everything:
        raise typer.BadParameter("name batches, or use --all")
    return batches or None


async def _change(
    statement: str, batch_ids: list[str] | None, **values: object
) -> tuple[list[str], dict[str, str]]:
    """Return the changed batches, and the others of ``batch_ids`` with the reason. Raises BatchUnknown."""
    settings = ensure_ledger(Settings())
    async with await connect(settings.database, "tdp hold", patience=0) as session:
        rows = await fetch(session, "statuses_of", batch_ids=batch_ids or [])
        if unknown := set(batch_ids or []) - {row["batch_id"] for row in rows}:
            raise BatchUnknown(
                f"not in the ledger: {', '.join(sorted(unknown))}; `tdp batches` lists batches"
            )
        done = await fetch(session, statement, batch_ids=batch_ids, **values)
    changed = sorted(row["batch_id"] for row in done)
    state = {row["batch_id"]: "held already" if row["held"] else f"{row['status']}, not held" for row in rows}
    return changed, {batch_id: state[batch_id] for batch_id in sorted(set(state) - set(changed))}


def _print(done: list[str], what: str, skipped: dict[str, str]) -> None:
    for batch_id in done:
        echo(f"{batch_id}: {what}")
    for batch_id, state in skipped.items():
        echo(f"{batch_id}: unchanged, it is {state}")
    if not done:
        echo("Nothing to change.")
        raise typer.Exit(1)
