"""The HTTP server: uvicorn with graceful shutdown. A failure of the engine ends the process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog
import uvicorn

from service.app import create_app
from service.core.engine import Engine
from service.core.events import RequestRejected
from service.settings import Settings
from service.web.connections import ConnectionLimits, bounded

_SWITCH_SECONDS = 0.0001

log = structlog.get_logger("fnet.server")


class Server(uvicorn.Server):
    """A uvicorn server that drains before it stops.

    The first SIGTERM or SIGINT makes the service not ready at once. After the delay, the service rejects new requests.
    The server stops when all accepted requests are complete or the drain time is over. A second signal stops it at
    once.

    Args:
        config: Configuration of uvicorn.
        engine: Engine of the application.
        delay: Seconds after the signal during which new requests are accepted, so that load balancers can deregister
            the server.
        drain_seconds: Maximum time in seconds to finish accepted requests.
        on_loaded: Called ten times per second once the model is loaded.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        *,
        delay: float,
        drain_seconds: float,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_loaded = on_loaded
        self._engine = engine
        self._delay, self._drain_seconds = delay, drain_seconds
        self._drain_start: float | None = None
        # Name of the signal until it is logged. The handler must not log, because it may interrupt a log call.
        self._unlogged_signal: str | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and log its URL."""
        await super().startup(sockets)
        if self.should_exit:  # loading the preset has failed
            return
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Start draining, or stop at once on a second signal."""
        if self._drain_start is not None:
            self.should_exit = self.force_exit = True
            self._engine.skip_shutdown_wait()
            return
        self._drain_start = time.monotonic() + self._delay
        self._unlogged_signal = signal.Signals(sig).name
        self._engine.mark_unready()
        if not self._delay:
            self._engine.drain()

    async def on_tick(self, counter: int) -> bool:
        """Check, ten times per second, whether to stop."""
        stop = await super().on_tick(counter)
        self._engine.check_watchdog()
        if self._unlogged_signal is not None:
            log.info("shutdown requested", signal=self._unlogged_signal, delay=self._delay, drain=self._drain_seconds)
            self._unlogged_signal = None
        if self._engine.loaded is not None:
            self._on_loaded()
        if self._drain_start is None or time.monotonic() < self._drain_start:
            return stop
        self._engine.drain()
        # uvicorn may use the rest of the drain time to send responses.
        remaining = self._drain_start + self._drain_seconds - time.monotonic()
        self.config.timeout_graceful_shutdown = max(1, round(remaining))
        if remaining < 0:
            self._engine.cancel_pending()
        return stop or self._engine.idle or remaining < 0


def serve(settings: Settings, on_loaded: Callable[[], None] = lambda: None) -> int:
    """Serve until a signal or a failure stops the server.

    After the drain, the last run may take five more seconds.

    Args:
        settings: All settings.
        on_loaded: Called ten times per second once the model is loaded.

    Returns:
        The exit code: 0 after a shutdown by one or two signals; 1 if the model cannot be loaded, its worker fails, its
        last run does not end, or the server cannot listen on the address.
    """
    # The event loop must release the interpreter quickly when the model thread completes a batch.
    sys.setswitchinterval(_SWITCH_SECONDS)
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_failure)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=bounded(ConnectionLimits(), lambda code: app.state.metrics.observe(RequestRejected(code))),
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = Server(
        config,
        app.state.engine,
        delay=settings.shutdown_delay,
        drain_seconds=settings.drain_seconds,
        on_loaded=on_loaded,
    )
    # uvicorn logs the reason and raises SystemExit if it cannot listen.
    with suppress(SystemExit):
        server.run()
    code = 1 if failures or not server.started else 0
    log.info("stopped", exit_code=code)
    if server.force_exit or app.state.engine.stuck:
        # A thread may be inside a compiler, a download or a run; finalizing the interpreter would abort the process.
        logging.shutdown()
        os._exit(code)
    return code
