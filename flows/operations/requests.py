"""Request a run of the inbox deployment: at most one of the requested runs has not planned its batches yet.

A run receives everything that waits at the time when it plans, so a second one would find nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from flows.domain import INBOX_DEPLOYMENT
from flows.ledger.session import Session, fetch

OPEN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
#: Seconds in which requests for the same items count as one request, from however many processes.
REQUEST_INTERVAL = 15
#: A run that the schedule starts within so many seconds counts as open.
_SOON = timedelta(seconds=5)
_PAGE = 200


async def request_run(client: PrefectClient, ledger: Session, why: str, wanted: Iterable[str]) -> UUID | None:
    """Create a run for the items that ``wanted`` names; ``why`` is its tag. Return the id of the run.

    Returns None if there is no ``ready_deployment``.
    """
    deployment = await ready_deployment(client, ledger)
    return await create_run(client, deployment, why, wanted) if deployment else None


async def ready_deployment(client: PrefectClient, ledger: Session) -> DeploymentResponse | None:
    """Return the inbox deployment if a run may be created now.

    Returns None if an open run has still to plan, if as many runs are open as the deployment's concurrency
    limit allows, or if the deployment is paused or missing.
    """
    try:
        deployment = await client.read_deployment_by_name(INBOX_DEPLOYMENT)
    except ObjectNotFound:
        return None
    if deployment.paused or not await _has_room(client, ledger, deployment):
        return None
    return deployment


async def create_run(
    client: PrefectClient, deployment: DeploymentResponse, why: str, wanted: Iterable[str]
) -> UUID:
    """Create a run as ``request_run`` does, of a deployment that is known to be ready."""
    things = hashlib.sha256("\n".join(sorted(wanted)).encode()).hexdigest()[:16]
    run = await client.create_flow_run_from_deployment(
        deployment.id,
        state=Scheduled(),
        tags=[why],
        idempotency_key=f"{why}-{things}-{int(time.time()) // REQUEST_INTERVAL}",
    )
    return run.id


async def _has_room(client: PrefectClient, ledger: Session, deployment: DeploymentResponse) -> bool:
    open_runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            state=in_state(*OPEN),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                {"before_": await server_time(client) + _SOON}
            ),
        ),
        limit=_PAGE,
    )
    run_ids = [run.id for run in open_runs]
    planned = await fetch(ledger, "planned_runs", flow_run_ids=run_ids) if run_ids else []
    limit = deployment.global_concurrency_limit
    is_full = limit is not None and limit.active and len(run_ids) >= limit.limit
    return len(planned) == len(run_ids) and not is_full


async def server_time(client: PrefectClient) -> datetime:
    """Return the Prefect server's time, which dates states; the clock of this host may be wrong."""
    return parsedate_to_datetime((await client.hello()).headers["date"])


def in_state(*types: StateType) -> FlowRunFilterState:
    """Return the filter for flow runs in a state of one of these types."""
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))
