"""Requests to the Prefect server's API over plain HTTP, without Prefect's client."""

from __future__ import annotations

import http.client
from http import HTTPStatus

import msgspec

from flows.errors import ServiceFailed
from flows.services.prefect import server_url
from flows.settings import Settings


class Slots(msgspec.Struct, frozen=True):
    """One global concurrency limit: its slots, those in use, and whether the server enforces it."""

    name: str
    limit: int
    active_slots: int
    active: bool


def slots(settings: Settings, timeout: float = 2.0) -> dict[str, Slots]:
    """Return the global concurrency limits by name. ``timeout`` is in seconds.

    Plain HTTP, because importing Prefect's client takes longer than the rest of a command. Raises
    ServiceFailed if the server does not respond in time.
    """
    body = request(settings, "POST", "/api/v2/concurrency_limits/filter", b'{"limit": 200}', timeout)
    return {slot.name: slot for slot in msgspec.json.decode(body, type=list[Slots])}


def request(
    settings: Settings, method: str, path: str, body: bytes | None = None, timeout: float = 2.0
) -> bytes:
    """Return the body of the server's response; raise ServiceFailed for none and for an error status."""
    host = server_url(settings).removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    headers = {"Content-Type": "application/json"}
    if settings.authorization:
        headers["Authorization"] = settings.authorization
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceFailed(f"the Prefect server at {host} does not respond: {error}") from error
    finally:
        connection.close()
    if response.status == HTTPStatus.UNAUTHORIZED:
        advice = "set TDP_AUTH_STRING to its value"
        raise ServiceFailed(f"the Prefect server at {host} requires authentication: {advice}")
    if response.status >= 400:
        raise ServiceFailed(f"the Prefect server at {host} responded {response.status} to {method} {path}")
    return content
