"""`fnet-service health`: is the service ready? For containers, whose images need no other program to ask."""

from __future__ import annotations

import os
from http.client import HTTPConnection, HTTPException, HTTPSConnection

import click

from service.cli.exits import fail
from service.cli.urls import address
from service.settings import Settings, SettingsError

_PATH = "/health/ready"
# Addresses that one listens on but cannot ask, and where to ask instead.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on


@click.command()
@click.option(
    "--url", default=None, metavar="URL", help="Of the service; by default where FNET_HOST and FNET_PORT say."
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=4.0, show_default=True, help="Seconds.")
def health(url: str | None, timeout: float) -> None:
    """Ask whether the service is ready.

    The answer goes to standard output. A key is presented if FNET_API_KEYS or FNET_API_KEYS_FILE has one. Exits with 0
    if it is ready, 1 if not or if it does not answer, and 2 for a bad setting.
    """
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        fail(error, 2)
    host = _EVERYWHERE.get(settings.host, settings.host)
    parts = address(url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    headers = {"Authorization": f"Bearer {min(keys)}"} if (keys := settings.keys()) else {}
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    # Not by way of a proxy that the environment names: the service is here.
    connection = kind(str(parts.hostname), parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path.rstrip("/") + _PATH, headers=headers)
        answer = connection.getresponse()
        status, body = answer.status, answer.read().decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        fail(f"{parts.geturl()}: {str(error) or type(error).__name__}", 1)
    finally:
        connection.close()
    if status != 200:  # noqa: PLR2004 - OK
        fail(f"{parts.geturl()}: not ready: {status} {body}", 1)
    click.echo(body)
