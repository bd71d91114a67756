"""The real process with a port and signals."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import Process
from tests.support.timeouts import TIMEOUT


def test_lifecycle_of_a_process(start: Callable[..., Process]) -> None:
    """The server responds while loading, becomes ready, encodes without compiling, and drains on SIGTERM."""
    process = start()
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client, ThreadPoolExecutor() as threads:
        # === Not yet ready ===
        early = client.get("/health/ready")
        assert early.status_code == 503
        assert set(early.json()) == {"state", "done", "of"}
        assert early.json()["state"] in ("loading", "compiling")
        assert client.get("/health/live").status_code == 200
        refused = client.post("/v1/encode", json={"texts": "a"})
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        ready = client.get("/health/ready").json()
        assert ready["state"] == "ready"
        assert ready["done"] == ready["of"] > 0

        # === Ready ===
        texts = ["a dog runs", "a puppy is running", "interest rates rose"]
        answer = client.post("/v1/encode", json={"texts": texts, "outputs": ["pooled_output"], "normalize": True})
        assert answer.status_code == 200
        rows = np.array(answer.json()["pooled_output"])
        near, far = rows[0] @ rows[1], rows[0] @ rows[2]
        assert near > far
        alone = client.post("/v1/encode", json={"texts": texts[0], "outputs": ["pooled_output"], "normalize": True})
        assert np.array_equal(alone.json()["pooled_output"][0], answer.json()["pooled_output"][0])
        lengths = [1, 2, 15, 16, 17, 100, 255, 511, 512]
        mixed = client.post("/v1/encode", json={"token_ids": [[7] * length for length in lengths]})
        assert [len(rows) for rows in mixed.json()["sequence_output"]] == lengths
        assert client.post("/v1/encode", content=b"{").json()["code"] == "bad_request"
        metrics = {
            sample.name: sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
        }
        assert metrics["fnet_compilations_total"] == 0
        assert metrics["fnet_ready"] == 1
        assert "server" not in answer.headers

        # === A second process on the same port ===
        port = client.base_url.port
        second = start("--port", str(port))
        assert second.end() == 1
        assert any("address already in use" in line for line in second.lines)
        assert client.get("/health").status_code == 200

        # === Shutdown ===
        body = {"token_ids": [[7 + number] * 512 for number in range(64)], "outputs": ["pooled_output"]}
        in_flight = threads.submit(httpx.post, f"{process.url}/v1/encode", json=body, timeout=TIMEOUT)
        process.wait_until(lambda: "fnet_queue_requests 1.0" in client.get("/metrics").text)
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: client.get("/health/ready").json()["state"] == "draining")
        late = client.post("/v1/encode", json={"texts": "a"})
        assert (late.status_code, late.json()["code"]) == (503, "draining")
        assert late.headers["connection"] == "close"
        finished = in_flight.result(TIMEOUT)
        assert finished.status_code == 200
        assert len(finished.json()["pooled_output"]) == 64
    assert process.end() == 0
    assert [line for line in process.lines if json.loads(line)["level"] not in ("info", "debug")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_loading_ends_the_process(start: Callable[..., Process], number: signal.Signals) -> None:
    """The process ends with exit code 0 without waiting for the model."""
    process = start()
    assert httpx.get(f"{process.url}/health/live").status_code == 200
    process.signal(number)
    assert process.end() == 0
    assert process.events("ready") == []


@pytest.mark.parametrize(
    ("options", "environ", "line"),
    [
        (
            ["--dtype", "float16"],
            {},
            "fnet-service: --dtype: 'float16' is not valid; expected float32, bfloat16 or int8",
        ),
        (
            [],
            {"FNET_PORT": "http"},
            "fnet-service: FNET_PORT: 'http' is not valid; expected a whole number at least 0 and at most 65,535",
        ),
        ([], {"FNET_PROT": "80"}, "fnet-service: FNET_PROT: unknown setting; did you mean FNET_PORT?"),
        ([], {"FNET_ENGINE": "openvino"}, "fnet-service: FNET_ENGINE was renamed: use FNET_BACKEND"),
        (["--page", "false"], {}, "fnet-service: --page was renamed: use --ui"),
        (
            ["--dtype", "int8"],
            {},
            "fnet-service: --dtype: int8 is not available with the jax backend: use FNET_BACKEND",
        ),
        (["--preset", "no_such_preset"], {}, "fnet-service: --preset: preset 'no_such_preset': no such preset"),
    ],
)
def test_invalid_setting_stops_the_start(
    start: Callable[..., Process], options: list[str], environ: dict[str, str], line: str
) -> None:
    """The exit code is 2, and one line names the variable or option."""
    process = start(*options, **environ)
    assert process.end() == 2
    assert len(process.lines) == 1
    assert process.lines[0].startswith(line)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", '{"class_name": "BertBackbone"}', "config.json: class_name is 'BertBackbone'"),
        ("model.weights.h5", "no weights", "model.weights.h5: "),
    ],
)
def test_invalid_preset_ends_the_process(
    start: Callable[..., Process], tiny_preset: Path, tmp_path: Path, file: str, content: str, reason: str
) -> None:
    """The exit code is 1, and one line names the file and the problem."""
    broken = shutil.copytree(tiny_preset, tmp_path / "broken")
    (broken / file).write_text(content)
    process = start(FNET_PRESET=str(broken))
    assert process.end() == 1
    (line,) = [json.loads(line) for line in process.lines if json.loads(line)["level"] == "error"]
    assert line["event"] == "cannot load the preset"
    assert line["reason"].startswith(reason)
    assert "Traceback" not in "".join(process.lines)


def test_unsupported_backend_ends_the_process(
    start: Callable[..., Process], write_preset: Callable[..., Path], tmp_path: Path
) -> None:
    """The exit code is 1, and one line states the reason and the remedy."""
    preset = write_preset(tmp_path / "odd_en", hidden=72, intermediate=100, tokenizer=False)
    process = start(FNET_PRESET=str(preset), FNET_BACKEND="openvino", FNET_DTYPE="int8")
    assert process.end() == 1
    (line,) = [json.loads(line) for line in process.lines if json.loads(line)["level"] == "error"]
    assert line["reason"] == (
        "int8 needs a hidden and an intermediate size that are multiples of 32; this network has 72 and 100: "
        "use FNET_DTYPE=float32 or bfloat16"
    )
    assert "Traceback" not in "".join(process.lines)


def test_free_port_is_logged(start: Callable[..., Process], smallest_preset: Path) -> None:
    """Port 0 selects a free port; API keys are required and never logged."""
    process = start(
        "--host",
        "localhost",
        FNET_PRESET=str(smallest_preset),
        FNET_MAX_BATCH_TOKENS="16",
        FNET_API_KEYS="one,open-sesame",
    )
    assert not process.url.endswith(":0")
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health").status_code == 200)
        assert client.get("/v1/info").status_code == 401
        assert client.get("/v1/info", headers={"X-API-Key": "open-sesame"}).json()["preset"] == "smallest_en"
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    assert "sesame" not in "".join(process.lines)


def test_disconnect_cancels_the_request(start: Callable[..., Process], smallest_preset: Path) -> None:
    """A connection that closes during a request is counted, and the request leaves the queue."""
    process = start(FNET_PRESET=str(smallest_preset), FNET_MAX_BATCH_TOKENS="16")
    url = httpx.URL(process.url)
    body = json.dumps({"token_ids": [[7] * 8] * 200, "outputs": ["pooled_output"]}).encode()
    head = f"POST /v1/encode HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health").status_code == 200)
        with socket.create_connection((url.host, url.port)) as connection:
            connection.sendall(head + body[:-1])  # without the last byte
        process.wait_until(lambda: "fnet_cancelled_total 1.0" in client.get("/metrics").text)
        assert "fnet_queue_tokens 0.0" in client.get("/metrics").text
        answer = client.post("/v1/encode", json={"token_ids": [1, 2], "outputs": ["pooled_output"]})
        assert answer.status_code == 200
    process.signal(signal.SIGTERM)
    assert process.end() == 0


def test_requests_are_accepted_during_the_shutdown_delay(start: Callable[..., Process]) -> None:
    """The process is not ready at once, but responds during the delay."""
    process = start("--shutdown-delay", "3")
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: client.get("/health/ready").status_code == 503)
        assert client.post("/v1/encode", json={"token_ids": [[4, 9, 5]]}).status_code == 200
    assert process.end() == 0
    (event,) = process.events("shutdown requested")
    assert (event["signal"], event["delay"]) == ("SIGTERM", 3.0)
    assert [event["exit_code"] for event in process.events("stopped")] == [0]


def test_second_signal_ends_the_process_at_once(start: Callable[..., Process]) -> None:
    """The process waits neither for the delay nor for the drain."""
    process = start("--shutdown-delay", "600", "--drain-seconds", "600")
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: client.get("/health/ready").status_code == 503)
        process.signal(signal.SIGTERM)
    process.end()


def test_api_keys_are_reloaded_while_serving(start: Callable[..., Process], tmp_path: Path) -> None:
    """A change of the file applies without a restart."""
    file = tmp_path / "keys"
    file.write_text("sesame-one\n")
    process = start("--api-keys-file", str(file), "--metrics-require-key", "true")
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:

        def status(key: str, path: str = "/metrics") -> int:
            return client.get(path, headers={"Authorization": f"Bearer {key}"}).status_code

        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert (status("sesame-one"), status("sesame-two"), client.get("/metrics").status_code) == (200, 401, 401)
        file.write_text("sesame-two\n")
        process.wait_until(lambda: status("sesame-two") == 200)
        assert status("sesame-one") == 401
    assert "sesame" not in "".join(process.lines)


class Fleet:
    """Concurrent clients of all ready processes. The list of ready processes is delayed, as in a load balancer.

    Attributes:
        answers: Status of each response, or the name of the exception.
        wrong: Number of responses that differ from the expected outputs.
    """

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.answers: list[int | str] = []
        self.wrong = 0
        self._ready: list[str] = []
        self._stopped = threading.Event()
        self._ids = [[4, 7 + number, *range(10, 10 + number), 5] for number in range(12)]
        with httpx.Client(base_url=processes[0].url, timeout=TIMEOUT) as client:
            processes[0].wait_until(lambda: client.get("/health").status_code == 200)
            self._expected = [self._ask(client, ids).json() for ids in self._ids]
        self._threads = [threading.Thread(target=self._watch), *(threading.Thread(target=self._go) for _ in range(6))]

    def _ask(self, client: httpx.Client, ids: list[int], url: str = "") -> httpx.Response:
        return client.post(f"{url}/v1/encode", json={"token_ids": [ids], "outputs": ["pooled_output"]})

    def _watch(self) -> None:
        with httpx.Client(timeout=TIMEOUT) as client:
            while not self._stopped.wait(0.1):
                ready = []
                for process in list(self.processes):
                    with suppress(httpx.TransportError):
                        if client.get(f"{process.url}/health/ready").status_code == 200:
                            ready.append(process.url)
                self._ready = ready

    def _go(self) -> None:
        # Connections are reused.
        with httpx.Client(timeout=TIMEOUT) as client:
            for turn in itertools.count():
                if self._stopped.is_set():
                    return
                ready = self._ready
                if not ready:
                    time.sleep(0.01)
                    continue
                which = turn % len(self._ids)
                try:
                    answer = self._ask(client, self._ids[which], ready[turn % len(ready)])
                except httpx.TransportError as error:
                    self.answers.append(type(error).__name__)
                    continue
                self.answers.append(answer.status_code)
                self.wrong += answer.json() != self._expected[which]

    def start(self) -> None:
        """Start the clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the clients after their current requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def wait_ready(self, count: int) -> None:
        """Wait until `count` processes are ready."""
        self.processes[-1].wait_until(lambda: len(self._ready) == count)

    def wait_answers(self, more: int) -> None:
        """Wait until the clients have received `more` further responses."""
        total = len(self.answers) + more
        self.processes[-1].wait_until(lambda: len(self.answers) >= total)


def test_rolling_restart_loses_no_request(start: Callable[..., Process], tiny_preset: Path) -> None:
    """Two processes are replaced under load; all responses succeed and are bit-identical."""

    def one() -> Process:
        return start("--shutdown-delay", "1", FNET_PRESET=str(tiny_preset), FNET_MAX_BATCH_TOKENS="64")

    fleet = Fleet([one(), one()])
    fleet.start()
    try:
        fleet.wait_ready(2)
        fleet.wait_answers(50)
        for _ in range(2):
            fleet.processes.append(one())
            fleet.wait_ready(3)
            old = fleet.processes[0]
            old.signal(signal.SIGTERM)
            assert old.end() == 0
            fleet.processes.remove(old)
            fleet.wait_answers(50)
    finally:
        fleet.stop()
    assert set(fleet.answers) == {200}
    assert fleet.wrong == 0


def test_killed_process_breaks_connections_only(start: Callable[..., Process], tiny_preset: Path) -> None:
    """Clients see connection errors but no incomplete response; the next process returns the same outputs."""

    def one() -> Process:
        return start(FNET_PRESET=str(tiny_preset), FNET_MAX_BATCH_TOKENS="64")

    first = one()
    fleet = Fleet([first])
    fleet.start()
    try:
        fleet.wait_ready(1)
        fleet.wait_answers(50)
        first.signal(signal.SIGKILL)
        assert first.end() == -signal.SIGKILL
        fleet.processes[:] = [one()]
        fleet.wait_ready(1)
        fleet.wait_answers(50)
    finally:
        fleet.stop()
    broken = {"ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
    assert 200 in fleet.answers
    assert set(fleet.answers) <= {200, *broken}
    assert fleet.wrong == 0


def begin_upload(connection: socket.socket) -> None:
    """Send a request without its body, and return when the server waits for the body."""
    head = b"POST /v1/encode HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head + b"{")
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.recv(len(interim), socket.MSG_WAITALL) == interim


# The run of a batch never ends, like a deadlock in a library.
_STUCK = """
import os, sys, threading
from service import app, server
from service.core import batcher
from service.core import engine
from service.telemetry.logs import configure
from service.settings import Settings

class Stuck(engine.Engine):
    def __init__(self, *arguments):
        super().__init__(*arguments, run_timeout=float(os.environ["RUN_TIMEOUT"]))

    def _run(self, plan, batch):
        print("running", file=sys.stderr, flush=True)
        threading.Event().wait()

batcher._SHUTDOWN_GRACE_SECONDS = 2.0
app.Engine = Stuck
settings = Settings.load(os.environ, {})
configure(settings.log_format, settings.log_level)
sys.exit(server.serve(settings))
"""


def test_run_that_does_not_end_ends_the_process(start: Callable[..., Process], tiny_preset: Path) -> None:
    """The request gets 503, the log has the reason, and the exit code is 1."""
    process = start(program=_STUCK, RUN_TIMEOUT="1", FNET_PRESET=str(tiny_preset))
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        answer = client.post("/v1/encode", json={"token_ids": [[5, 6]]})
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_failed")
    assert process.end() == 1
    assert "a run has not ended within 1 seconds" in "".join(process.lines)


def test_run_that_does_not_end_during_the_drain_is_a_failure(start: Callable[..., Process], tiny_preset: Path) -> None:
    """The exit code is 1; other requests get their responses before the wait for the run."""
    process = start(program=_STUCK, RUN_TIMEOUT="600", FNET_DRAIN_SECONDS="1", FNET_PRESET=str(tiny_preset))
    host, port = process.url.removeprefix("http://").split(":")
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client, ThreadPoolExecutor() as threads:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        running = threads.submit(httpx.post, f"{process.url}/v1/encode", json={"token_ids": [[5, 6]]}, timeout=TIMEOUT)
        process.wait_until(lambda: "running" in process.lines)
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            begin_upload(connection)
            process.signal(signal.SIGTERM)
            answer = b""
            while part := connection.recv(4096):
                answer += part
        answers = [running.result(TIMEOUT).json()["code"]]
    assert process.end() == 1
    assert answer.startswith(b"HTTP/1.1 503")
    assert answers == ["draining"]
    (failed,) = process.events("model worker failed")
    assert "the last run has not ended within 2 seconds" in str(failed["exception"])
    responses = [line["timestamp"] for line in process.events("request") if line["status"] == 503]
    assert max(responses) < failed["timestamp"]


# The run of a batch never ends and spends its time inside the library.
_BUSY = _STUCK.replace("threading.Event().wait()", "while super()._run(plan, batch):\n            pass")


def test_second_signal_ends_the_process_during_a_run(start: Callable[..., Process], tiny_preset: Path) -> None:
    """The request gets 503, and the exit code is 0 as after one signal."""
    process = start(program=_BUSY, RUN_TIMEOUT="600", FNET_DRAIN_SECONDS="600", FNET_PRESET=str(tiny_preset))
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client, ThreadPoolExecutor() as threads:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        running = threads.submit(httpx.post, f"{process.url}/v1/encode", json={"token_ids": [[5, 6]]}, timeout=TIMEOUT)
        process.wait_until(lambda: "running" in process.lines)
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: client.get("/health/ready").status_code == 503)
        process.signal(signal.SIGTERM)
        answer = running.result(TIMEOUT)
    assert process.end() == 0
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")


# Prints when `close` starts to wait for the last run, with a long grace period.
_SLOW_CLOSE = _STUCK.replace(
    "batcher._SHUTDOWN_GRACE_SECONDS = 2.0", "batcher._SHUTDOWN_GRACE_SECONDS = 600.0"
).replace(
    "    def _run",
    """    def close(self):
        print("closing", file=sys.stderr, flush=True)
        super().close()

    def _run""",
)


def test_second_signal_ends_the_wait_for_the_last_run(start: Callable[..., Process], tiny_preset: Path) -> None:
    """A second signal also skips the grace period after the drain."""
    process = start(program=_SLOW_CLOSE, RUN_TIMEOUT="600", FNET_DRAIN_SECONDS="1", FNET_PRESET=str(tiny_preset))
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client, ThreadPoolExecutor() as threads:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        running = threads.submit(httpx.post, f"{process.url}/v1/encode", json={"token_ids": [[5, 6]]}, timeout=TIMEOUT)
        process.wait_until(lambda: "running" in process.lines)
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: "closing" in process.lines)
        process.signal(signal.SIGTERM)
        assert process.end() == 0
        assert running.result(TIMEOUT).json()["code"] == "draining"


def test_malformed_body_is_reported_in_the_format_of_the_protocol(
    start: Callable[..., Process], tiny_preset: Path
) -> None:
    """The response has the request id, and the rejection is counted."""
    process = start(FNET_PRESET=str(tiny_preset))
    host, port = process.url.removeprefix("http://").split(":")
    message = "the body is not valid chunked encoding, which its Transfer-Encoding header declares"

    def send_malformed(path: str) -> Any:
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nX-Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            connection.sendall(head.encode() + b"1\r\n{\r\nno size\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 400 ")
        assert "\r\nx-request-id: mine\r\n" in head
        return json.loads(body)

    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert send_malformed("/v1/encode")["detail"] == message
        assert send_malformed("/v1/embeddings")["error"]["message"] == message
        assert send_malformed("/v2/models/tiny_en/infer") == {"error": message}
        assert send_malformed("/embed") == {"error": message, "error_type": "Validation"}
        assert 'fnet_rejected_total{reason="bad_request"} 4.0' in client.get("/metrics").text


def test_incomplete_body_gets_a_response_at_the_end_of_the_drain(
    start: Callable[..., Process], tiny_preset: Path
) -> None:
    """A request with an incomplete body gets 503 in the format of its protocol."""
    process = start("--drain-seconds", "1", FNET_PRESET=str(tiny_preset))
    host, port = process.url.removeprefix("http://").split(":")
    process.wait_until(lambda: bool(process.events("ready")))
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        begin_upload(connection)
        process.signal(signal.SIGTERM)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    process.end()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"code":"draining"' in answer
    assert b"x-request-id" in answer.lower()
    assert "Traceback" not in "".join(process.lines)


def test_unfinished_requests_get_a_response_at_the_end_of_the_drain(
    start: Callable[..., Process], tiny_preset: Path
) -> None:
    """An unfinished request gets 503 and is logged."""
    process = start("--drain-seconds", "0.2", "--max-queue-tokens", "2000000", FNET_PRESET=str(tiny_preset))
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client, ThreadPoolExecutor() as threads:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        body = {
            "token_ids": [[7 + row % 40, *range(row, row + 60)] for row in range(2000)],
            "outputs": ["pooled_output"],
        }
        late = threads.submit(httpx.post, f"{process.url}/v1/encode", json=body, timeout=TIMEOUT)
        process.wait_until(lambda: "fnet_queue_requests 1.0" in client.get("/metrics").text)
        process.signal(signal.SIGTERM)
        answer = late.result(TIMEOUT)
    process.end()
    assert answer.status_code == 503
    assert answer.json()["code"] == "draining"
    assert "Traceback" not in "".join(process.lines)
    assert 503 in {line["status"] for line in process.events("request")}
