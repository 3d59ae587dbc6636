"""The schedule of the inbox deployment: active only while no process looks at the inbox.

Arrivals (:mod:`flows.operations.arrival`) request a run when files wait, so that scheduled runs would only be
empty ones. If no process looks any more, the schedule receives the files instead.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from flows.domain import INBOX_DEPLOYMENT
from flows.ledger.session import Session, fetch_one

#: The application name of the sessions of processes that look at the inbox.
LOOKING = "tdp arrival"
#: Seconds without a look after which no process looks at the inbox. A look at a large folder takes minutes.
_LOOKED_WITHIN = 300.0
UNWATCHED = (
    "No process looks at the inbox, so its files are received every five minutes by the schedule of"
    f" {INBOX_DEPLOYMENT}: start `tdp up` or the unit tdp-recovery"
)


async def adjust_schedule(client: PrefectClient, ledger: Session) -> bool | None:
    """Activate or deactivate the schedule of prefect.yaml; return whether it is active.

    Schedules that an operator created in the UI have no slug and are left as they are. Returns None if the
    server has no such deployment or schedule.
    """
    try:
        deployment = await client.read_deployment_by_name(INBOX_DEPLOYMENT)
    except ObjectNotFound:
        return None
    row = await fetch_one(ledger, "is_inbox_watched", application=LOOKING, seconds=_LOOKED_WITHIN)
    is_active = None
    for schedule in deployment.schedules:
        if schedule.slug:
            is_active = not row["is_watched"]
            # This removes its scheduled runs. An inactive schedule is deactivated again, because Prefect's
            # scheduler may have been creating runs of it when it was deactivated before.
            if schedule.active != is_active or not is_active:
                await client.update_deployment_schedule(deployment.id, schedule.id, active=is_active)
    return is_active
