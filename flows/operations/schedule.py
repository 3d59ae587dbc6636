"""The schedule of the inbox deployment: active only while no process checks the inbox.

Arrivals (:mod:`flows.operations.arrival`) request a run when files wait, so scheduled runs would find
nothing. If no process checks the inbox, the schedule starts the runs instead: the monitor activates it within
minutes (:mod:`flows.monitor.schedule_watch`), and maintenance once an hour.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from flows.domain import INBOX_DEPLOYMENT, LOOKED_WITHIN, LOOKING
from flows.ledger.session import Session, fetch_one


async def adjust_schedule(client: PrefectClient, ledger: Session) -> bool | None:
    """Activate or deactivate the schedule of prefect.yaml; return whether it is active.

    Schedules that an operator created in the UI have no slug and are left as they are. Returns None if the
    server has no such deployment or schedule.
    """
    try:
        deployment = await client.read_deployment_by_name(INBOX_DEPLOYMENT)
    except ObjectNotFound:
        return None
    row = await fetch_one(ledger, "is_inbox_watched", application=LOOKING, seconds=LOOKED_WITHIN)
    is_active = None
    for schedule in deployment.schedules:
        if schedule.slug:
            is_active = not row["is_watched"]
            # This removes its scheduled runs. An inactive schedule is deactivated again, because Prefect's
            # scheduler may have been creating runs of it when it was deactivated before.
            if schedule.active != is_active or not is_active:
                await client.update_deployment_schedule(deployment.id, schedule.id, active=is_active)
    return is_active
