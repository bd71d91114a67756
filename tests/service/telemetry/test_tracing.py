"""Traces that a collector receives from a real process."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.timeouts import TIMEOUT

COMMAND = Path(sysconfig.get_path("scripts")) / "fnet-service"
TRACE, CLIENTS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """A collector that stores exports.

    Attributes:
        url: URL of the collector.
        spans: Received spans.
        bodies: Received request bodies.
    """

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def store(self, body: bytes) -> None:
        """Store an export."""
        self.bodies.append(body)
        export = ExportTraceServiceRequest.FromString(body)
        self.spans += [
            span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]

    def of(self, trace_id: str) -> dict[str, Any]:
        """Return the spans of a trace, by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.store(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield collector
    server.shutdown()
    thread.join(TIMEOUT)
    server.server_close()


@pytest.fixture
def traced(
    tiny_preset: Path, tmp_path: Path
) -> Iterator[Callable[[str], tuple[httpx.Client, Callable[[], list[Any]]]]]:
    """Serve with traces to an endpoint; returns a client, and a function that ends the process and returns its log."""
    running: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def serve(endpoint: str) -> tuple[httpx.Client, Callable[[], list[Any]]]:
        log = tmp_path / "log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FNET_", "OTEL_"))}
        settings = {
            "FNET_PRESET": str(tiny_preset),
            "FNET_MAX_BATCH_TOKENS": "64",
            "FNET_PORT": "0",
            "FNET_LOG_FORMAT": "json",
            "FNET_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with log.open("wb") as stream:
            process = subprocess.Popen([str(COMMAND), "serve"], env={**inherited, **settings}, stderr=stream)
        running.append(process)

        def lines() -> list[Any]:
            return [json.loads(line) for line in log.read_text().splitlines()]

        def end() -> list[Any]:
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
            return lines()

        def ready() -> bool:
            return any(line["event"] == "ready" for line in lines())

        deadline = time.monotonic() + TIMEOUT
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = next(line["url"] for line in lines() if line["event"] == "listening")
        clients.append(httpx.Client(base_url=url, timeout=TIMEOUT))
        return clients[-1], end

    yield serve
    for client in clients:
        client.close()
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(TIMEOUT)


def test_request_creates_a_trace(
    collector: Collector, traced: Callable[[str], tuple[httpx.Client, Callable[[], list[Any]]]]
) -> None:
    """The trace continues the trace of the client, has ordered steps and contains no input."""
    client, end = traced(collector.url)
    parent = {"traceparent": f"00-{TRACE}-{CLIENTS_SPAN}-01"}
    request = {"texts": ["a secret word", "another"], "outputs": ["pooled_output"]}
    assert client.post("/v1/encode", json=request, headers=parent).status_code == 200
    unsampled = {"traceparent": f"00-{'1' * 32}-{CLIENTS_SPAN}-00"}
    assert client.post("/v1/encode", json=request, headers=unsampled).status_code == 200
    assert client.post("/v1/encode", content=b"{", headers={"traceparent": "nonsense"}).status_code == 400
    client.get("/health/ready")
    client.get("/metrics")
    log = end()  # exports queued spans
    spans = collector.of(TRACE)
    assert set(spans) == {"POST /v1/encode", "tokenize", "queue", "compute", "render"}
    root = spans["POST /v1/encode"]
    assert root.parent_span_id.hex() == CLIENTS_SPAN
    steps = [spans[name] for name in ("tokenize", "queue", "compute", "render")]
    for step in steps:
        assert step.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        assert step.end_time_unix_nano <= root.end_time_unix_nano
    assert [step.end_time_unix_nano for step in steps] == sorted(step.end_time_unix_nano for step in steps)
    attributes = {item.key: item.value.string_value or item.value.int_value for item in root.attributes}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/encode",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "fnet.sequences": 2,
        "fnet.tokens": 8,
    }
    assert collector.of("1" * 32) == {}
    (refused,) = [span for span in collector.spans if span.trace_id.hex() != TRACE]
    assert refused.parent_span_id == b""
    assert {line["trace_id"] for line in log if line["event"] == "request"} >= {TRACE, refused.trace_id.hex()}
    assert b"secret" not in b"".join(collector.bodies)


def test_unreachable_collector_does_not_affect_requests(
    traced: Callable[[str], tuple[httpx.Client, Callable[[], list[Any]]]],
) -> None:
    """Requests succeed, and the process shuts down cleanly."""
    client, end = traced("http://127.0.0.1:9")
    for number in range(50):
        assert client.post("/v1/encode", json={"token_ids": [4, number, 5]}).status_code == 200
    time.sleep(0.5)
    assert client.post("/v1/encode", json={"token_ids": [4, 5]}).status_code == 200
    log = end()
    assert not [line for line in log if line["level"] == "critical" or "Traceback" in json.dumps(line)]
