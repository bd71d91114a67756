"""A fake Hugging Face hub for tests with the real client."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Serves one repository, `team/fnet`, with the API of the hub.

    Attributes:
        files: Contents of the repository, keyed by file name.
        interruptions: Number of next transfers of the weights to interrupt.
        interrupt_after_bytes: Bytes that an interrupted transfer sends.
        requests: Method, path and range of each request.
    """

    daemon_threads = True

    def __init__(self, source: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        self.files["training_state.bin"] = b"not a preset file"
        self.interruptions = 0
        self.interrupt_after_bytes = 0
        self.requests: list[tuple[str, str, str | None]] = []

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process that uses this hub, with the client cache below `home`."""
        return {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""

    def _respond(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/team/fnet/"):
            files = self.server.files.items()
            document: Any = {
                "id": "team/fnet",
                "sha": COMMIT,
                "siblings": [{"rfilename": name, "size": len(data)} for name, data in files],
            }
            if "/tree/" in path:
                document = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324 - git object ids
                    for name, data in files
                ]
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})
            return
        name = path.partition("/resolve/")[2].partition("/")[2]
        data = self.server.files.get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.path.endswith("model.weights.h5") and self.server.interruptions:
            self.server.interruptions -= 1
            body, self.close_connection = body[: self.server.interrupt_after_bytes], True
        self.wfile.write(body)


@contextmanager
def running(source: Path) -> Iterator[Hub]:
    """Run a hub that serves the files of a directory."""
    server = Hub(source)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
