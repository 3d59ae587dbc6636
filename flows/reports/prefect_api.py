"""The global concurrency limits as the Prefect server counts them."""

from __future__ import annotations

import http.client
from http import HTTPStatus

import msgspec

from flows.errors import ServiceFailed
from flows.services.prefect import server_url
from flows.settings import Settings


class Slots(msgspec.Struct, frozen=True):
    """One limit: how many slots it has and how many of them are taken; an inactive limit gates nothing."""

    name: str
    limit: int
    active_slots: int
    active: bool


def slots(settings: Settings, timeout: float = 2.0) -> dict[str, Slots]:
    """Return the server's limits by name; raise ServiceFailed if it does not answer within ``timeout`` s.

    Asked by plain HTTP: importing Prefect's client takes longer than everything else a command here does.
    """
    body = ask(settings, "POST", "/api/v2/concurrency_limits/filter", b'{"limit": 200}', timeout)
    return {slot.name: slot for slot in msgspec.json.decode(body, type=list[Slots])}


def ask(settings: Settings, method: str, path: str, body: bytes | None = None, timeout: float = 2.0) -> bytes:
    """Return the body of the server's answer; raise ServiceFailed if there is none or it is an error."""
    host = server_url(settings).removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    headers = {"Content-Type": "application/json"}
    if settings.authorization:
        headers["Authorization"] = settings.authorization
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceFailed(f"the Prefect server at {host} does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise ServiceFailed(f"the Prefect server at {host} asks who we are: set TDP_AUTH_STRING as it has it")
    if answer.status >= 400:
        raise ServiceFailed(f"the Prefect server at {host} answers {answer.status} to {method} {path}")
    return content
