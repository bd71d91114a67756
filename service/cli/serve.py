"""The command `fnet-service serve`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from service.cli.exits import fail
from service.settings import RENAMED, Settings, SettingsError, option, service_links, variable


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option per setting to a command, and a hidden one per old name, which `Settings.load` rejects."""
    for name in RENAMED:
        command = click.option(option(name), name, default=None, hidden=True)(command)
    for name, field in reversed(Settings.model_fields.items()):
        default = "" if field.default in (None, []) else f" Default: {field.default}."
        text = f"{field.description}{default} [{variable(name)}]"
        command = click.option(option(name), name, default=None, metavar="VALUE", help=text)(command)
    return command


@click.command()
@_settings_options
def serve(**options: Any) -> None:
    """Serve a preset over HTTP.

    Every option is also an environment variable; options take precedence. Exits with 0 after a clean shutdown, with 1
    if the model cannot be loaded or its worker fails, and with 2 on a bad setting.
    """
    try:
        settings = Settings.load(os.environ, options, serving=True)
    except SettingsError as error:
        fail(error, 2)
    # The first process of a container ignores unhandled signals; before the server starts, SIGTERM ends the process.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    import structlog  # noqa: PLC0415 - these imports take a second

    from service.cli import cpu_limits  # noqa: PLC0415 - these imports take a second
    from service.telemetry import logs  # noqa: PLC0415 - these imports take a second

    logs.configure(settings.log_format, settings.log_level)
    if ignored := service_links(os.environ):
        structlog.get_logger("fnet.settings").warning("variables ignored", names=ignored, detail="set by Kubernetes")
    restore_affinity = cpu_limits.limit_affinity()
    from service import server  # noqa: PLC0415 - its libraries count processors when they load

    sys.exit(server.serve(settings, on_loaded=restore_affinity))
