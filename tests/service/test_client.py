"""The client library: requests, responses and retries."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from service import client as module
from service.client import AsyncClient, Client, Encoded, EncodeError
from service.core.errors import Problem
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]

HIDDEN = 32
IDS = [[5, 6, 7], [8], [9, 10]]
ALL = ("sequence_output", "pooled_output", "mean_output")

# A call of `encode` of either client.
Encode = Callable[..., Encoded]


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    """URL of the application behind a socket, for the blocking client."""
    server = uvicorn.Server(uvicorn.Config(service.app, port=0, lifespan="off", ws="none", log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + TIMEOUT
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join(TIMEOUT)


@pytest.fixture(params=["blocking", "asynchronous"])
def encode(request: pytest.FixtureRequest, service: Service, url: str) -> Encode:
    """The `encode` method of the blocking and of the asynchronous client."""

    def blocking(*arguments: Any, **fields: Any) -> Encoded:
        with Client(url) as client:
            return client.encode(*arguments, **fields)

    def asynchronous(*arguments: Any, **fields: Any) -> Encoded:
        async def call() -> Encoded:
            transport = httpx.ASGITransport(service.app)
            async with AsyncClient("http://service", transport=transport) as client:
                return await client.encode(*arguments, **fields)

        return service.run(call())

    return blocking if request.param == "blocking" else asynchronous


def assert_equal(array: npt.NDArray[np.float32] | None, expected: Any) -> None:
    """Assert that an array is bit-identical to the numbers of a JSON response."""
    assert array is not None
    assert array.dtype == np.float32
    assert np.array_equal(array, np.array(expected, np.float32))


# === Requests and responses ===


def test_ids_are_encoded(encode: Encode, service: Service) -> None:
    """All outputs equal those of a JSON response."""
    segments = [[0, 1, 2], [0], [1, 1]]
    encoded = encode(token_ids=IDS, segment_ids=segments, outputs=ALL)
    answer = service.encode(token_ids=IDS, segment_ids=segments, outputs=list(ALL)).json()
    assert_equal(encoded.pooled_output, answer["pooled_output"])
    assert_equal(encoded.mean_output, answer["mean_output"])
    assert encoded.sequence_output is not None
    assert len(encoded.sequence_output) == len(IDS)
    for array, expected in zip(encoded.sequence_output, answer["sequence_output"], strict=True):
        assert_equal(array, expected)
    assert encoded.lengths.tolist() == [3, 1, 2]


def test_texts_are_encoded_with_all_options(encode: Encode, service: Service) -> None:
    """Texts and pairs are truncated, padded and normalized."""
    texts = ["a small dog", ("who?", "a dog"), ["word " * 100, "b"]]
    options: dict[str, Any] = {"normalize": True, "truncate": True, "padding": 20}
    encoded = encode(texts, outputs=["mean_output"], **options)
    answer = service.encode(texts=texts, outputs=["mean_output"], **options).json()
    assert_equal(encoded.mean_output, answer["mean_output"])
    assert encoded.lengths.tolist() == [20] * 3
    assert (encoded.pooled_output, encoded.sequence_output) == (None, None)


def test_arrays_are_accepted_as_lists(encode: Encode) -> None:
    """Ids may be NumPy arrays and numbers."""
    assert_equal(encode(token_ids=np.array(IDS[0])).pooled_output, encode(token_ids=IDS[:1]).pooled_output)
    assert_equal(encode(token_ids=[np.array(IDS[0])]).pooled_output, encode(token_ids=IDS[:1]).pooled_output)
    assert_equal(encode(token_ids=list(np.array(IDS[0]))).pooled_output, encode(token_ids=IDS[:1]).pooled_output)


def test_service_supplies_defaults(encode: Encode) -> None:
    """Absent fields are not sent."""
    encoded = encode("a dog")
    assert encoded.pooled_output is not None
    assert encoded.pooled_output.shape == (1, HIDDEN)
    assert encoded.sequence_output is not None
    assert encoded.mean_output is None


def test_error_contains_the_problems_of_the_request(encode: Encode) -> None:
    """The error has the fields of the problem document."""
    with pytest.raises(EncodeError) as caught:
        encode(token_ids=[[1, -1], [10**6]])
    error = caught.value
    assert (error.status, error.code) == (422, "invalid_input")
    assert [problem.loc for problem in error.problems] == [("token_ids", 0, 1), ("token_ids", 1, 0)]
    assert isinstance(error.problems[0], Problem)
    assert str(error) == f"invalid_input: {error.detail}"
    with pytest.raises(EncodeError, match="found both"):
        encode("a", token_ids=[1])
    with pytest.raises(EncodeError, match="found neither"):
        encode()


def test_value_that_is_not_json_raises_a_type_error(encode: Encode) -> None:
    """The error is raised before a request is sent."""
    with pytest.raises(TypeError, match="not JSON: object"):
        encode(token_ids=[object()])


def test_api_key_is_sent(service: Service, make_blocked_service: MakeBlockedService) -> None:
    """An invalid or missing key is rejected."""
    blocked, gate = make_blocked_service(api_keys=["secret"])
    gate.opened.set()

    async def call(key: str | None) -> Encoded:
        async with AsyncClient("http://service", key, transport=httpx.ASGITransport(blocked.app)) as client:
            return await client.encode("a", outputs=["pooled_output"])

    assert_equal(blocked.run(call("secret")).pooled_output, service.encode(texts="a").json()["pooled_output"])
    for key in ("wrong", None):
        with pytest.raises(EncodeError) as caught:
            blocked.run(call(key))
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_timeout_of_the_client_applies_to_the_server(make_blocked_service: MakeBlockedService) -> None:
    """A timed-out request is cancelled on both sides."""
    blocked, _ = make_blocked_service()

    async def call() -> Encoded:
        transport = httpx.ASGITransport(blocked.app)
        async with AsyncClient("http://service", timeout=0.2, transport=transport) as client:
            return await client.encode(token_ids=[5])

    with pytest.raises(EncodeError) as caught:
        blocked.run(call())
    assert caught.value.code == "deadline_exceeded"
    assert caught.value.status in (0, 504)


# === Retries, with a fake clock and server ===


class Clock:
    """A manual clock.

    Attributes:
        now: Time in seconds.
        slept: Duration of each sleep in seconds.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the client."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def busy(status: int = 503, retry_after: str | None = None) -> httpx.Response:
    """Return a temporary rejection."""
    document = {"code": "overloaded", "detail": "the queue is full", "errors": []}
    return httpx.Response(status, json=document, headers={} if retry_after is None else {"Retry-After": retry_after})


def done() -> httpx.Response:
    """Return a successful response."""
    arrays = {"lengths": np.array([1], np.int32), "pooled_output": np.ones((1, 2), np.float32)}
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    return httpx.Response(200, content=archive.getvalue())


@contextmanager
def responding(
    *responses: httpx.Response | Exception, **options: Any
) -> Iterator[tuple[Callable[[], Encoded], list[httpx.Request]]]:
    """Yield a call to a server with a sequence of responses, and the received requests."""
    remaining = iter(responses)
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        response = next(remaining)
        if isinstance(response, Exception):
            raise response
        return response

    with Client("http://service/", **options, transport=httpx.MockTransport(respond)) as client:
        yield lambda: client.encode("a"), requests


@pytest.mark.parametrize(
    "failure", [busy(503), busy(429), httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone")], ids=repr
)
def test_temporary_errors_are_retried(clock: Clock, failure: httpx.Response | Exception) -> None:
    """Pauses grow exponentially."""
    with responding(failure, failure, failure, done()) as (call, requests):
        assert call().lengths.tolist() == [1]
    assert len(requests) == 4
    assert len({request.content for request in requests}) == 1
    for slept, min_pause in zip(clock.slept, [0.25, 0.5, 1.0], strict=True):
        assert min_pause <= slept <= min_pause * 1.25


def test_retry_after_is_respected(clock: Clock) -> None:
    """Jitter spreads the retries of many clients."""
    with responding(busy(429, "7"), busy(503, "2"), busy(503, "soon"), done()) as (call, _):
        call()
    for slept, (min_pause, max_pause) in zip(clock.slept, [(7, 7.1), (2, 2.2), (1, 1.3)], strict=True):
        assert min_pause <= slept <= max_pause


def test_number_of_retries_is_limited(clock: Clock) -> None:
    """The last error is raised."""
    with responding(httpx.ConnectError("refused"), busy(429, "1"), retries=1) as (call, requests):
        with pytest.raises(EncodeError) as caught:
            call()
        assert len(requests) == 2
    assert (caught.value.status, caught.value.code, caught.value.detail) == (429, "overloaded", "the queue is full")
    with responding(httpx.ConnectError("refused"), retries=0) as (call, _):
        with pytest.raises(EncodeError, match=r"^unreachable: refused$") as caught:
            call()
        assert caught.value.status == 0


def test_timeout_limits_retries(clock: Clock) -> None:
    """The client does not sleep beyond its timeout."""
    with responding(busy(503, "4"), busy(503, "4"), busy(503, "4"), timeout=10.0, retries=9) as (call, requests):
        with pytest.raises(EncodeError):
            call()
        assert len(requests) == 3
    assert sum(clock.slept) < 10
    with responding(busy(503, "3600")) as (call, requests):
        with pytest.raises(EncodeError):
            call()
        assert len(requests) == 1


def test_requests_contain_the_remaining_timeout(clock: Clock) -> None:
    """Each request has the remaining time, the format and the API key."""
    with responding(busy(503, "4"), done(), timeout=10.0, api_key="k") as (call, requests):
        call()
    first, second = (float(request.headers["X-Request-Timeout"]) for request in requests)
    assert first == 10
    assert 5.9 < second <= 6
    assert {request.headers["Accept"] for request in requests} == {"application/x-npz"}
    assert {request.headers["Authorization"] for request in requests} == {"Bearer k"}
    assert {str(request.url) for request in requests} == {"http://service/v1/encode"}


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
def test_permanent_errors_are_not_retried(clock: Clock, status: int) -> None:
    """A retry would fail as well."""
    with responding(busy(status)) as (call, _), pytest.raises(EncodeError) as caught:
        call()
    assert caught.value.status == status
    assert not clock.slept


def test_late_response_is_a_timeout(clock: Clock) -> None:
    """The timeout applies to absent and to incomplete responses."""

    def trickle() -> Iterator[bytes]:
        for _ in range(5):
            clock.now += 3
            yield b"x"

    for response in (httpx.ReadTimeout("late"), httpx.Response(200, content=trickle())):
        with responding(response, timeout=10.0, retries=0) as (call, _), pytest.raises(EncodeError) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (0, "deadline_exceeded")
        assert caught.value.detail == "no response within 10 s"


@given(st.binary(max_size=40), st.sampled_from([200, 404, 502]))
def test_response_of_another_server_is_an_error(content: bytes, status: int) -> None:
    """Arbitrary bytes, such as the page of a proxy, raise `bad_answer`."""
    response = httpx.Response(status, content=content)
    with responding(response) as (call, _), pytest.raises(EncodeError) as caught:
        call()
    assert (caught.value.status, caught.value.code) == (status, "bad_answer")


@pytest.mark.parametrize("pickled", [True, False])
def test_pickles_are_not_loaded(pickled: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """Archives with objects and archives without lengths are rejected."""
    arrays: dict[str, Any] = {"pooled_output": np.ones((1, 2), np.float32)}
    if pickled:
        arrays["lengths"] = np.array([{}], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    response = httpx.Response(200, content=buffer.getvalue())
    with responding(response) as (call, _), pytest.raises(EncodeError, match="not a NumPy archive of this service"):
        call()


# === Dependencies ===


def test_client_imports_no_model() -> None:
    """The client imports neither JAX nor the web framework."""
    script = "import sys, service.client; print(*{name.split('.')[0] for name in sys.modules})"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    loaded = set(process.stdout.split())
    assert {"httpx", "numpy"} <= loaded
    assert not loaded & {"jax", "keras", "h5py", "sentencepiece", "fastapi", "pydantic", "model"}
