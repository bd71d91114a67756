"""The command `fnet-service health`: a readiness probe that needs no other program in the container image."""

from __future__ import annotations

import os
from http.client import HTTPConnection, HTTPException, HTTPSConnection

import click

from service.cli.exits import fail
from service.cli.urls import address
from service.settings import Settings, SettingsError

_PATH = "/health/ready"
# Wildcard addresses of a listener, and the loopback address to connect to instead.
_LOOPBACK_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a lookup key, not a listener


@click.command()
@click.option("--url", default=None, metavar="URL", help="URL of the service. By default from FNET_HOST and FNET_PORT.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=4.0, show_default=True, help="Timeout in seconds."
)
def health(url: str | None, timeout: float) -> None:
    """Check whether the service is ready.

    Prints the response to standard output. Sends an API key if FNET_API_KEYS or FNET_API_KEYS_FILE has one. Exits with
    0 if the service is ready, with 1 if it is not ready or does not answer, and with 2 on a bad setting.
    """
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        fail(error, 2)
    host = _LOOPBACK_ADDRESSES.get(settings.host, settings.host)
    parts = address(url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    headers = {"Authorization": f"Bearer {min(keys)}"} if (keys := settings.keys()) else {}
    connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    # The service is local, so the connection ignores the proxy settings of the environment.
    connection = connection_class(str(parts.hostname), parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path.rstrip("/") + _PATH, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read().decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        fail(f"{parts.geturl()}: {str(error) or type(error).__name__}", 1)
    finally:
        connection.close()
    if status != 200:  # noqa: PLR2004 - OK
        fail(f"{parts.geturl()}: not ready: {status} {body}", 1)
    click.echo(body)
