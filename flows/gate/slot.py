"""One slot of a Prefect global concurrency limit, held under a lease, by the client's own calls.

Prefect's ``concurrency()`` hides the lease's id, which the ledger records so that a dead holder's slot can be
released at once, and makes a refused waiter sleep for a time that the server chooses, although behind the
fence there is almost never another holder to wait for.

Pitfall: a request that is cancelled while it is under way costs httpx a connection of its pool permanently,
and once all 16 are lost a flow waits indefinitely. So every request here is shielded and comes to its end by
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import ConcurrencyLimitWithLeaseResponse
from prefect.client.schemas.responses import MinimalConcurrencyLimitResponse as Limit
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from flows.domain import Log
from flows.errors import GateLost, LimitMissing
from flows.stages.runner.completion import to_the_end

#: Seconds: the shortest lease that Prefect grants, when it is renewed, and when work must have ended without
#: it.
LEASE, _RENEW_EVERY, _RENEW_WITHIN = 60.0, 15.0, 50.0
#: Seconds for which the answer to a renewal is waited for, and to a release in all: long enough for a
#: restart.
_ANSWER_WITHIN, _RELEASE_WITHIN = 10.0, 20.0
#: Seconds for which a slot is refused, while the ledger knows no holder, before it counts as leaked: behind a
#: stage's only fence, and behind one of several, beside which another run may have a lease before its row.
_LEAK_AFTER, _LEAK_AFTER_OF_SEVERAL = 1.0, 3.0
_LOCKED, _GONE, _UNPROCESSABLE = 423, 410, 422
_MISSING = "the global concurrency limit {!r} does not exist: run `tdp apply`"
#: Returns what the ledger knows of a stage's leases: the row of the statement `leases_behind_gate`.
Leases = Callable[[], Awaitable[Mapping[str, Any]]]


async def acquire(
    client: PrefectClient, stage: str, holder: UUID | None, leases: Leases, log: Log, *, is_exclusive: bool
) -> tuple[UUID, Limit]:
    """Wait for a slot of the limit named ``stage``; return its lease and the limit as the server has it.

    Where the server counts more slots than the ledger knows ``leases``, for some seconds, a process died
    between two runs, the response to a grant was lost or the count was changed by hand. Raises LimitMissing.
    Waits for an unavailable server.
    """
    clock = asyncio.get_running_loop().time
    leak_after = _LEAK_AFTER if is_exclusive else _LEAK_AFTER_OF_SEVERAL
    pause, refused_at = 0.05, None
    while True:
        try:
            granted = await _request(client, stage, holder, log)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status not in (_LOCKED, _UNPROCESSABLE) and not error.response.is_server_error:
                raise
            refused_at = refused_at or clock()
            if status == _LOCKED and clock() - refused_at > leak_after:
                pause = 0.05 if await _release_leaked(client, stage, leases, log) else pause
                refused_at = None
        except httpx.TransportError as error:
            log.warning("The Prefect server does not respond, waiting for it: %r", error)
        else:
            if not granted.limits:
                raise LimitMissing(_MISSING.format(stage))
            emit("acquired", granted.limits[0])
            return granted.lease_id, granted.limits[0]
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)


async def _request(
    client: PrefectClient, stage: str, holder: UUID | None, log: Log
) -> ConcurrencyLimitWithLeaseResponse:
    """Ask for a slot; a grant that arrives after this was cancelled is released again."""
    request = asyncio.ensure_future(
        client.increment_concurrency_slots_with_lease(
            names=[stage],
            slots=1,
            mode="concurrency",
            lease_duration=LEASE,
            holder=ConcurrencyLeaseHolder(type="task_run", id=holder) if holder else None,
        )
    )
    try:
        response = await asyncio.shield(request)
    except asyncio.CancelledError:
        await to_the_end(_release_late(client, request, log))
        raise
    return ConcurrencyLimitWithLeaseResponse.model_validate(response.json())


async def _release_late(client: PrefectClient, request: asyncio.Future[httpx.Response], log: Log) -> None:
    """Release what is granted to a request that no run waits for: unknown, the lease would have to expire."""
    await asyncio.wait([request], timeout=_ANSWER_WITHIN)
    if request.done() and not request.cancelled() and not request.exception():
        late = ConcurrencyLimitWithLeaseResponse.model_validate(request.result().json())
        await release(client, late.lease_id, log)


async def limit_of(client: PrefectClient, stage: str) -> int:
    """Return the size of the limit named ``stage``. Raises LimitMissing."""
    try:
        found = await asyncio.shield(client.read_global_concurrency_limit_by_name(stage))
    except ObjectNotFound:
        raise LimitMissing(_MISSING.format(stage)) from None
    return found.limit


async def renew(client: PrefectClient, lease: UUID) -> None:
    """Keep the lease; never return, and raise GateLost once it is lost or may be."""
    clock = asyncio.get_running_loop().time
    renewed = clock()
    while True:
        await asyncio.sleep(_RENEW_EVERY)
        try:
            async with asyncio.timeout_at(renewed + _RENEW_WITHIN):
                renewed = await _renewed(client, lease, clock)
        except TimeoutError:
            raise GateLost("the Prefect lease could not be renewed: the server does not respond") from None


async def _renewed(client: PrefectClient, lease: UUID, clock: Callable[[], float]) -> float:
    """Renew the lease, in as many requests as it takes; return when the one that was answered was made."""
    while True:
        asked = clock()
        try:
            # By itself the client asks for minutes, with pauses in which a server may come back unnoticed.
            async with asyncio.timeout(_ANSWER_WITHIN):
                await asyncio.shield(client.renew_concurrency_lease(lease_id=lease, lease_duration=LEASE))
            return asked
        except (httpx.HTTPError, TimeoutError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == _GONE:
                raise GateLost("the Prefect lease of the slot has expired or was revoked") from error
        await asyncio.sleep(1.0)


async def release(client: PrefectClient, lease: UUID, log: Log) -> None:
    """Release the slot; if the server is unavailable, the lease expires by itself."""
    try:
        # The next waiter waits for this, and by itself the client would repeat the request for minutes.
        async with asyncio.timeout(_RELEASE_WITHIN):
            await asyncio.shield(client.release_concurrency_slots_with_lease(lease_id=lease))
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("The slot's lease %s could not be released and will expire: %r", lease, error)


async def _release_leaked(client: PrefectClient, stage: str, leases: Leases, log: Log) -> bool:
    """Release the slots that the server counts and no run holds; return whether there were any.

    By their leases where the ledger has them: a slot that is released by its number is subtracted once more
    when its lease expires, although another run holds it then.
    """

    async def surplus() -> int:
        limit = await asyncio.shield(client.read_global_concurrency_limit_by_name(stage))
        return int(limit.active_slots - (await leases())["running"])

    if (leaked := await surplus()) <= 0:
        return False
    log.warning("Limit %s counts %d slots that no run holds; releasing them", stage, leaked)
    for lease in (await leases())["left"]:
        await release(client, UUID(lease), log)
    if (leaked := await surplus()) > 0:
        by_number = client.release_concurrency_slots(names=[stage], slots=leaked, occupancy_seconds=1.0)
        await asyncio.shield(by_number)
    return True


def emit(what: str, limit: Limit) -> None:
    """Let Prefect's event feed show that a slot was "acquired" or "released", as ``concurrency()`` does."""
    emit_event(
        f"prefect.concurrency-limit.{what}",
        resource={
            "prefect.resource.id": f"prefect.concurrency-limit.{limit.id}",
            "prefect.resource.name": limit.name,
            "slots-acquired": "1",
            "limit": str(limit.limit),
        },
    )
