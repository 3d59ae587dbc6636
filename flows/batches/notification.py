"""Notify of batches that are done or have failed, by Apprise: e-mail, ntfy, Slack and many others."""

from __future__ import annotations

from typing import Any

from flows.batches.runtime import Runtime
from flows.domain import Log
from flows.ledger.batches import OwnedBatch


async def notify(batch: OwnedBatch, runtime: Runtime, log: Log) -> None:
    """Send how the batch has ended to the Apprise URLs of the TDP pipeline block, if it has any.

    A service that cannot be reached is only logged, and without its URL, which may hold a password.
    """
    urls = runtime.config.notify_urls.get_secret_value().split() if runtime.config.notify_urls else []
    if not urls:
        return
    import apprise  # a tenth of a second, which batches without URLs do not need

    services = apprise.Apprise()
    added = [services.add(url) for url in urls]
    if not all(added):
        log.warning("Some of the notification URLs are not Apprise URLs; see the block tdp")
    report = await batch.report()
    rows = await batch.owner.fetch("batch_outcome", batch_id=batch.batch_id)
    title, body = _message(report, rows[0]["error_message"])
    kind = apprise.NotifyType.FAILURE if report["status"] == "FAILED" else apprise.NotifyType.SUCCESS
    if services and not await services.async_notify(body=body, title=title, notify_type=kind):
        log.warning("The notification of %s was not sent to all services", batch.batch_id)


def _message(report: dict[str, Any], error: str | None) -> tuple[str, str]:
    """Return the title and the body of a notification."""
    if report["status"] == "FAILED":
        return f"{report['batch_id']} has failed", error or "see its log"
    counts = [(report["stored"], "stored"), (report["partial"], "in part")]
    counts.append((report["quarantined"], "quarantined"))
    files = ", ".join(f"{number} {word}" for number, word in counts if number)
    return f"{report['batch_id']} is done", f"{files}; {report['messages']:,} messages"
