"""/metrics, /healthz and /readyz over HTTP, for Prometheus and for whoever keeps the process running.

`/healthz`: the process looks at all (the last look is not old). `/readyz`: the vault could be read at the last look. Nothing
secret is shown, and nothing can be changed, so there is no password; listen on an address that only monitors reach.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from keepwell.core.clock import Clock, SystemClock
from keepwell.core.errors import KeepwellError, UsageError
from keepwell.watch.look import Look

PORT = 9478
_STALE = 300


class ListenError(KeepwellError):
    """The address cannot be listened on."""


def address_of(text: str) -> tuple[str, int]:
    """`127.0.0.1:9478`, `:9478`, `[::1]:9478`, or a port alone. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise UsageError(f"{text!r} is not an address to listen on", hint="Write for example 127.0.0.1:9478.")
    return host.strip("[]") or "127.0.0.1", int(port)


class Endpoint:
    """Answers from its own thread what `show` was last given. As a context it listens. Raises ListenError."""

    def __init__(
        self,
        address: tuple[str, int],
        clock: Clock | None = None,
        ready: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`ready`: what else keeps this process from doing its work, if anything does (asked for `/readyz`)."""
        self._ready = ready
        self._clock = clock or SystemClock()
        self._look: Look | None = None
        self._shown = self._clock.monotonic()
        handler = _handler(self)
        try:
            self._server = http.server.ThreadingHTTPServer(address, handler)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror}", hint="Name another address or port."
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def show(self, look: Look) -> None:
        self._look, self._shown = look, self._clock.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, kind and body."""
        plain = "text/plain; charset=utf-8"
        look = self._look
        if path == "/metrics":
            from keepwell.watch.metrics import CONTENT_TYPE, render

            if look is None:
                return 503, plain, b"nobody has looked yet\n"
            return 200, CONTENT_TYPE, render(look)
        if path == "/healthz":
            fresh = self._clock.monotonic() - self._shown < _STALE
            return (200, plain, b"ok\n") if fresh else (503, plain, b"the last look is too long ago\n")
        if path == "/readyz":
            known = look is not None and look.seen.vault_known
            trouble = self._ready() if known else "the vault cannot be read"
            return (200, plain, b"ok\n") if trouble is None else (503, plain, f"{trouble}\n".encode())
        return 404, plain, b"there is /metrics, /healthz and /readyz\n"


def _handler(endpoint: Endpoint) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        server_version = "keepwell"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            status, kind, body = endpoint.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
            pass

    return Handler
