"""Notifications by Apprise of batches that are done or have failed, received by a server on loopback."""

from __future__ import annotations

from contextlib import suppress

import pytest
from listener import Listener
from pydantic import SecretStr

from blocks import PIPELINE, PipelineConfig, StageCommand
from flows.errors import BatchesFailed
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings


async def configure(listener: Listener) -> None:
    """Notify the listener, and two services that cannot be reached."""
    here = f"json://user:secret-password@127.0.0.1:{listener.server_address[1]}/tdp"
    away = "json://user:secret-password@127.0.0.1:9/tdp"
    urls = SecretStr(f"{here} {away} nonsense-secret-password")
    document = PipelineConfig(settle_seconds=0, task_retries=0, notify_urls=urls)
    await document.asave(PIPELINE, overwrite=True)


async def test_a_batch_that_is_done(installation: Settings, listener: Listener) -> None:
    await configure(listener)
    write_samples(installation.inbox, files=1, messages=5, seed=3, broken=1)
    await process_inbox(batch_size=2)
    done = listener.received.get(timeout=30)
    assert (done["title"], done["type"]) == ("batch_000001 is done", "success")
    assert done["message"] == "1 stored, 1 quarantined; 5 messages"


async def test_a_batch_that_failed_and_services_that_are_unavailable(
    installation: Settings, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    await configure(listener)
    fails = ["sh", "-c", "echo the disk is broken >&2; exit 65"]
    await StageCommand(command=fails).asave("extract", overwrite=True)
    write_samples(installation.inbox, files=1, messages=5, seed=4)
    with suppress(BatchesFailed):
        await process_inbox()
    failed = listener.received.get(timeout=30)
    assert (failed["title"], failed["type"]) == ("batch_000001 has failed", "failure")
    assert "the disk is broken" in failed["message"]
    assert "The notification of batch_000001 was not sent to all services" in caplog.text
    assert "secret-password" not in caplog.text
    assert "secret-password" not in repr(await PipelineConfig.aload(PIPELINE))
