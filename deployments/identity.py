"""The pairing of a ledger with its one Prefect server, checked before `tdp apply` changes anything.

Both sides have the same id: the server in the variable ``tdp_server_id``, the ledger in the table
``prefect_server``. Restored together from `tdp dump` they still match. A server without the id, or with
another one, is accepted if it is the server of the same home (its database was replaced, or the variable
deleted). The server of another home is accepted only if the operator states that it replaces the first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

from flows.errors import ServiceFailed
from flows.ledger.connection import connection
from flows.ledger.named_sql import load
from flows.services import server_url
from flows.settings import Settings

VARIABLE = "tdp_server_id"
_sql = load("services.sql")


async def pair(client: PrefectClient, settings: Settings, replace: bool) -> list[str]:
    """Record the server in the ledger; return one line if it replaced another. Raises ServiceFailed."""
    here = {"home": str(settings.root), "host": socket.gethostname(), "url": server_url(settings)}
    recorded = await asyncio.to_thread(_recorded, settings)
    found = await _read_id(client)
    changes = []
    if recorded and found != recorded["identity"]:
        is_same_home = (recorded["home"], recorded["host"]) == (here["home"], here["host"])
        if not (is_same_home or replace):
            raise ServiceFailed(_refusal(recorded))
        if not is_same_home:
            changes.append(f"ledger: this Prefect server replaces that of {recorded['home']}")
    identity = found or (recorded["identity"] if recorded and not replace else str(uuid4()))
    if identity != found:
        await _write_id(client, identity)
    if recorded != {"identity": identity, **here}:
        await asyncio.to_thread(_record, settings, {"identity": identity, **here})
    return changes


def _refusal(first: Mapping[str, str]) -> str:
    return (
        f"This ledger belongs to the Prefect server of {first['home']} on {first['host']} ({first['url']})."
        " A second server would grant its limits twice. Use that server, or set another TDP_DATABASE_URL."
        " If that server no longer exists, add --replace-server to the command."
    )


def _recorded(settings: Settings) -> dict[str, str] | None:
    with connection(settings.database, autocommit=True) as ledger:
        row = _sql.recorded_server(ledger)
    return dict(row) if row else None


def _record(settings: Settings, values: Mapping[str, str]) -> None:
    with connection(settings.database, autocommit=True) as ledger:
        _sql.record_server(ledger, **values)


async def _read_id(client: PrefectClient) -> str | None:
    variable = await client.read_variable_by_name(VARIABLE)
    try:
        return str(UUID(str(variable.value))) if variable else None
    except ValueError:  # edited by hand
        return None


async def _write_id(client: PrefectClient, identity: str) -> None:
    if await client.read_variable_by_name(VARIABLE):
        await client.update_variable(VariableUpdate(name=VARIABLE, value=identity))
    else:
        await client.create_variable(VariableCreate(name=VARIABLE, value=identity, tags=["tdp"]))
