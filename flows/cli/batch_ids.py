"""Ids of batches on the command line: as the lists print them, or their numbers."""

from __future__ import annotations

import typer

from flows.domain import full_batch_id

HELP = "Batch ids, as in `tdp batches`, or their numbers."


def complete_id(given: str) -> str:
    """Return the complete id. Raises BadParameter."""
    try:
        return full_batch_id(given)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; `tdp batches` lists the batches") from None
