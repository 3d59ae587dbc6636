"""Block documents, written by the requests that their forms in the UI make: Prefect's own save makes ten."""

from __future__ import annotations

import os

import httpx

#: No server of the tests has TLS, and reading the certificates would take 20 ms.
_HTTP = httpx.Client(timeout=30, verify=False)  # noqa: S501


def write_document(block_type: str, name: str, *, keep: bool = False, **data: object) -> None:
    """Let a document have these values; its others are unset, or remain if ``keep``."""
    api = os.environ["PREFECT_API_URL"]
    found = _HTTP.get(f"{api}/block_types/slug/{block_type}/block_documents/name/{name}").raise_for_status()
    body = {"data": data, "merge_existing_data": keep}
    _HTTP.patch(f"{api}/block_documents/{found.json()['id']}", json=body).raise_for_status()


def write_stage(stage: str, *command: str) -> None:
    """Let ``stage`` run this command; without one it is the built-in."""
    write_document("tdp-stage-command", stage, command=list(command))


def write_pipeline(**values: object) -> None:
    """Let the pipeline have these settings; it does not wait until files have settled."""
    write_document("tdp-pipeline", "tdp", **{"settle_seconds": 0, **values})


def write_database(url: str) -> None:
    """Let flow runs use the database at ``url`` (libpq)."""
    from blocks import DATABASE, connector

    data = connector(url).model_dump(
        mode="json", include={"connection_info"}, context={"include_secrets": True}
    )
    write_document("sqlalchemy-connector", DATABASE, keep=True, **data)
