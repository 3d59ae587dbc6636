"""The HTTP side of the stand-in Bot API server: requests and downloads, as forms, JSON and files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from bot_api import BotApi, Failure, Json


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: BotApi


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        given = self._given()
        prefix, _, method = unquote(self.path).rpartition("/")
        try:
            if prefix != f"/bot{self.server.api.token}":
                raise Failure(401, "Unauthorized")
            status, body = 200, {"ok": True, "result": self.server.api.call(method, given)}
        except Failure as failure:
            status = failure.status
            body = {"ok": False, "error_code": status, "description": str(failure)}
            body |= {"parameters": failure.parameters} if failure.parameters else {}
        except ConnectionAbortedError:
            self.close_connection = True
            return
        self._answer(status, body)

    def handle(self) -> None:
        """Serve a connection until the client ends it, or dies."""
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        api = self.server.api
        path = unquote(self.path).removeprefix(f"/file/bot{api.token}/")
        try:
            content, size = api.download(path)
        except Failure as failure:
            self._answer(failure.status, {"ok": False, "error_code": 404, "description": str(failure)})
            return
        half = min(size, len(content) // 2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:half])
        self.wfile.flush()
        api.wait_if_held("download")
        self.wfile.write(content[half:size])
        self.close_connection = size < len(content)

    def _given(self) -> Json:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True))
        mail = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        given: Json = {}
        for part in mail.get_payload():
            content = part.get_payload(decode=True)  # type: ignore[union-attr]
            name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
            file = part.get_filename()  # type: ignore[union-attr]
            given[str(name)] = (file, content) if file else content.decode()  # type: ignore[union-attr]
        return _with_attachments(given)

    def _answer(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def _with_attachments(given: Json) -> Json:
    """Replace ``attach://NAME`` by the part of that name."""
    return {
        name: given.get(value.removeprefix("attach://"), value) if isinstance(value, str) else value
        for name, value in given.items()
    }


@contextmanager
def bot_api(port: int = 0, **state: Any) -> Iterator[BotApi]:
    """Serve a stand-in on a free loopback port until the block ends."""
    api = BotApi(**state)
    with serving(api, port):
        yield api


@contextmanager
def serving(api: BotApi, port: int = 0) -> Iterator[None]:
    """Serve ``api`` until the block ends; a second time, its state is that of before."""
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.api = api
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            _record(api)


def _record(api: BotApi) -> None:
    """Append the requests to the file that TDP_BOT_REQUESTS names: `make bot-contract` reads it."""
    if path := os.environ.get("TDP_BOT_REQUESTS"):
        with Path(path).open("a") as file:
            for method, given in api.requests:
                names = {name: value if isinstance(value, str) else value[0] for name, value in given.items()}
                file.write(json.dumps({"method": method, "given": names}) + "\n")
