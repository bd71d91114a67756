"""The HTTP server: uvicorn, with a shutdown that lets accepted work finish and a failure that ends the process."""

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
    """Serves until it is told to stop.

    The first SIGTERM or SIGINT turns readiness off at once and, after the delay, new work away; the server ends when
    accepted work is done or the drain time is over. A second one ends the drain, and the wait for a last run, at once.

    Args:
        config: uvicorn's configuration.
        engine: Whose work is waited for.
        delay: Seconds that work is still taken, in which a load balancer notices.
        drain_seconds: How long accepted work is waited for at most.
        on_loaded: Called when the engine has its model, ten times a second.
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
        self._drain_begins: float | None = None
        # The signal that began it, until it is logged: a handler may come in the middle of a log line.
        self._told: str | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and say where."""
        await super().startup(sockets)
        if self.should_exit:  # the preset has already failed to load
            return
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a signal handler
        """Begin to drain, or end at once if that has begun."""
        if self._drain_begins is not None:
            self.should_exit = self.force_exit = True
            self._engine.skip_shutdown_wait()
            return
        self._drain_begins = time.monotonic() + self._delay
        self._told = signal.Signals(sig).name
        self._engine.mark_unready()
        if not self._delay:
            self._engine.drain()

    async def on_tick(self, counter: int) -> bool:
        """Say, ten times a second, whether it is time to stop."""
        stop = await super().on_tick(counter)
        self._engine.check_watchdog()
        if self._told is not None:
            log.info("told to stop", signal=self._told, delay=self._delay, drain=self._drain_seconds)
            self._told = None
        if self._engine.loaded is not None:
            self._on_loaded()
        if self._drain_begins is None or time.monotonic() < self._drain_begins:
            return stop
        self._engine.drain()
        # What is left of the drain time is for answers that are still on their way.
        left = self._drain_begins + self._drain_seconds - time.monotonic()
        self.config.timeout_graceful_shutdown = max(1, round(left))
        if left < 0:
            self._engine.cancel_pending()
        return stop or self._engine.idle or left < 0


def serve(settings: Settings, on_loaded: Callable[[], None] = lambda: None) -> int:
    """Serve until told to stop.

    Args:
        settings: All settings.
        on_loaded: As for `Server`.

    Returns:
        The exit code: 0 after a clean shutdown, 1 if the model could not be loaded, its worker failed or its last run
        does not end, or the address could not be listened on. A second signal ends the drain with 0 whatever runs;
        after the drain, a last run has five seconds.
    """
    # The event loop is to hand over the interpreter at once when the model thread comes back with a batch.
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
    # uvicorn leaves this way when it cannot listen, and has logged why.
    with suppress(SystemExit):
        server.run()
    code = 1 if failures or not server.started else 0
    if server.force_exit or app.state.engine.stuck:
        # A thread is inside a compiler, a download or a run; an interpreter that is taken down around it aborts.
        logging.shutdown()
        os._exit(code)
    return code
