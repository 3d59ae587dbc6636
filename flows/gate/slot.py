"""One slot of a Prefect global concurrency limit, held under a lease, by the client's own calls.

Prefect's ``concurrency()`` hides the lease's id, which we record so that a dead holder's slot can be given
back at once, and lets a refused waiter sleep for as long as the server likes; behind the fence there is
almost never anybody to wait for.

Pitfall: a request that is cancelled in its midst costs httpx a connection of its pool for good, and once all
16 are lost a flow waits for ever. So those that a time-out or the end of a run may meet are shielded, and
come to their end by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import ConcurrencyLimitWithLeaseResponse
from prefect.exceptions import ObjectNotFound

from flows.domain import Log
from flows.errors import GateLost, LimitMissing

#: Seconds. The shortest lease Prefect grants, when it is renewed, and when we must have ended without it.
LEASE, _RENEW_EVERY, _RENEW_WITHIN = 60.0, 15.0, 50.0
#: Seconds one request to renew it is waited for, and in all to give it back: long enough for a restart.
_ANSWER_WITHIN, _RELEASE_WITHIN = 10.0, 20.0
#: A slot refused for this long while nobody is running was leaked, and is taken back. Seconds.
_LEAK_AFTER = 3.0
_LOCKED, _GONE, _UNPROCESSABLE = 423, 410, 422


async def take(
    client: PrefectClient,
    stage: str,
    holder: UUID | None,
    running: Callable[[], Awaitable[int]],
    log: Log,
) -> tuple[UUID, int]:
    """Return the lease of a slot of the limit named ``stage``, and the limit's size, waiting for both.

    ``running`` tells how many stage runs hold a slot by the ledger: where the server counts more for
    ``_LEAK_AFTER`` seconds, a grant's answer was lost on its way or somebody changed the count by hand.
    Raises LimitMissing. A server that is away is waited for.
    """
    pause = 0.05
    refused: float | None = None
    while True:
        try:
            response = await client.increment_concurrency_slots_with_lease(
                names=[stage],
                slots=1,
                mode="concurrency",
                lease_duration=LEASE,
                holder=ConcurrencyLeaseHolder(type="task_run", id=holder) if holder else None,
            )
        except httpx.HTTPStatusError as error:
            if (
                error.response.status_code not in (_LOCKED, _UNPROCESSABLE)
                and not error.response.is_server_error
            ):
                raise
            refused = refused or time.monotonic()
            if error.response.status_code == _LOCKED and time.monotonic() - refused > _LEAK_AFTER:
                await _take_back_leaked(client, stage, running, log)
                refused = None
        except httpx.TransportError as error:
            log.warning("The Prefect server does not answer, waiting for it: %r", error)
        else:
            granted = ConcurrencyLimitWithLeaseResponse.model_validate(response.json())
            if not granted.limits:
                raise LimitMissing(f"the global concurrency limit {stage!r} does not exist: run `tdp apply`")
            return granted.lease_id, granted.limits[0].limit
        await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)


async def limit_of(client: PrefectClient, stage: str) -> int:
    """Return the size of the limit named ``stage``. Raises LimitMissing."""
    try:
        return (await client.read_global_concurrency_limit_by_name(stage)).limit
    except ObjectNotFound:
        raise LimitMissing(
            f"the global concurrency limit {stage!r} does not exist: run `tdp apply`"
        ) from None


async def renew(client: PrefectClient, lease: UUID) -> None:
    """Return never; keep the lease, and raise GateLost once it is lost or may be."""
    clock = asyncio.get_running_loop().time
    renewed = clock()
    while True:
        await asyncio.sleep(_RENEW_EVERY)
        try:
            async with asyncio.timeout_at(renewed + _RENEW_WITHIN):
                renewed = await _renewed(client, lease, clock)
        except TimeoutError:
            raise GateLost("the Prefect lease could not be renewed: the server does not answer") from None


async def _renewed(client: PrefectClient, lease: UUID, clock: Callable[[], float]) -> float:
    """Renew the lease, however often that must be asked for; return when the answered request was made."""
    while True:
        asked = clock()
        try:
            # Left to itself the client asks for minutes, with pauses that a server comes back in unseen.
            async with asyncio.timeout(_ANSWER_WITHIN):
                await asyncio.shield(client.renew_concurrency_lease(lease_id=lease, lease_duration=LEASE))
            return asked
        except (httpx.HTTPError, TimeoutError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == _GONE:
                raise GateLost("the Prefect lease of the slot has expired or was revoked") from error
        await asyncio.sleep(1.0)


async def is_granted_still(client: PrefectClient, stage: str, lease: UUID, limit: int | None) -> bool:
    """Renew the lease, and tell whether the limit named ``stage`` is as it was when it granted it.

    ``limit`` is its size then, if that is known. False if the server does not answer.
    """
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            await asyncio.shield(client.renew_concurrency_lease(lease_id=lease, lease_duration=LEASE))
            found = await asyncio.shield(client.read_global_concurrency_limit_by_name(stage))
    except (httpx.HTTPError, ObjectNotFound, TimeoutError):
        return False
    return found.active and 0 < found.active_slots <= found.limit == (limit or found.limit)


async def release(client: PrefectClient, lease: UUID, log: Log) -> None:
    """Give the slot back; where the server is away, the lease expires by itself."""
    try:
        # Whoever waits for the fence waits for this, and by itself the client asks a mute server for minutes.
        async with asyncio.timeout(_RELEASE_WITHIN):
            await asyncio.shield(client.release_concurrency_slots_with_lease(lease_id=lease))
    except (httpx.HTTPError, TimeoutError) as error:
        log.warning("The slot's lease %s could not be given back and will expire: %r", lease, error)


async def _take_back_leaked(
    client: PrefectClient, stage: str, running: Callable[[], Awaitable[int]], log: Log
) -> None:
    limit = await client.read_global_concurrency_limit_by_name(stage)
    leaked = limit.active_slots - await running()
    if leaked > 0:
        log.warning("Limit %s counts %d slots that nobody holds; taking them back", stage, leaked)
        await client.release_concurrency_slots(names=[stage], slots=leaked, occupancy_seconds=1.0)
