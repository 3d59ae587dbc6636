"""A TCP proxy on loopback that can drop the response to one request, or all traffic."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forward to ``port``; drop the response to the first request that contains all parts of ``lose``.

    The server receives the request and responds; then the connection to the client is closed without the
    response, and ``lost`` is set. While ``blocked`` is set, nothing is forwarded in either direction.
    """

    def __init__(self, port: int, lose: tuple[bytes, ...] = ()) -> None:
        self.lost = threading.Event()
        self.blocked = threading.Event()
        self._to = port
        self._lose = lose
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = {self._listener}
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._open |= {client, server}
            cut = threading.Event()
            for source, target, is_request in ((client, server, True), (server, client, False)):
                arguments = (source, target, is_request, cut)
                threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def close_connections(self) -> None:
        """Close all connections; new ones are accepted."""
        for each in self._open - {self._listener}:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _forward(
        self, source: socket.socket, target: socket.socket, is_request: bool, cut: threading.Event
    ) -> None:
        seen = b""
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.blocked.is_set():
                    continue
                if is_request:
                    seen = (seen + data)[-(1 << 16) :]  # head and body may arrive separately
                    if self._lose and not self.lost.is_set() and all(part in seen for part in self._lose):
                        cut.set()
                elif cut.is_set():
                    self.lost.set()
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(port: int, *lose: bytes) -> Iterator[Proxy]:
    """Run a :class:`Proxy` until the block ends."""
    running = Proxy(port, lose)
    thread = threading.Thread(target=running.serve, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.close()
        thread.join(10)
