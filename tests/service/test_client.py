"""The client: what it sends and reads, and how long it is patient."""

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

# A call of `encode`, by whichever client.
Encode = Callable[..., Encoded]


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    """The application behind a socket, for a client that blocks; its engine is the one that is ready already."""
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
    """A call of either client to the service."""

    def blocking(*given: Any, **fields: Any) -> Encoded:
        with Client(url) as client:
            return client.encode(*given, **fields)

    def asynchronous(*given: Any, **fields: Any) -> Encoded:
        async def call() -> Encoded:
            transport = httpx.ASGITransport(service.app)
            async with AsyncClient("http://service", transport=transport) as client:
                return await client.encode(*given, **fields)

        return service.run(call())

    return blocking if request.param == "blocking" else asynchronous


def same(found: npt.NDArray[np.float32] | None, expected: Any) -> None:
    """Hold an array to the numbers of a JSON answer, to the last bit."""
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected, np.float32))


# === What is asked and answered ===


def test_ids_are_encoded(encode: Encode, service: Service) -> None:
    """All outputs, as the service gives them in JSON."""
    segments = [[0, 1, 2], [0], [1, 1]]
    found = encode(token_ids=IDS, segment_ids=segments, outputs=ALL)
    answer = service.encode(token_ids=IDS, segment_ids=segments, outputs=list(ALL)).json()
    same(found.pooled_output, answer["pooled_output"])
    same(found.mean_output, answer["mean_output"])
    assert found.sequence_output is not None
    assert len(found.sequence_output) == len(IDS)
    for array, expected in zip(found.sequence_output, answer["sequence_output"], strict=True):
        same(array, expected)
    assert found.lengths.tolist() == [3, 1, 2]


def test_texts_are_encoded_with_all_options(encode: Encode, service: Service) -> None:
    """Texts and pairs, cut, padded and normalised."""
    texts = ["a small dog", ("who?", "a dog"), ["word " * 100, "b"]]
    options: dict[str, Any] = {"normalize": True, "truncate": True, "padding": 20}
    found = encode(texts, outputs=["mean_output"], **options)
    answer = service.encode(texts=texts, outputs=["mean_output"], **options).json()
    same(found.mean_output, answer["mean_output"])
    assert found.lengths.tolist() == [20] * 3
    assert (found.pooled_output, found.sequence_output) == (None, None)


def test_arrays_may_stand_for_lists(encode: Encode) -> None:
    """Ids are often NumPy's."""
    same(encode(token_ids=np.array(IDS[0])).pooled_output, encode(token_ids=IDS[:1]).pooled_output)
    same(encode(token_ids=[np.array(IDS[0])]).pooled_output, encode(token_ids=IDS[:1]).pooled_output)
    same(encode(token_ids=list(np.array(IDS[0]))).pooled_output, encode(token_ids=IDS[:1]).pooled_output)


def test_defaults_are_the_services(encode: Encode) -> None:
    """What is not given is not sent."""
    found = encode("a dog")
    assert found.pooled_output is not None
    assert found.pooled_output.shape == (1, HIDDEN)
    assert found.sequence_output is not None
    assert found.mean_output is None


def test_a_refusal_says_what_is_wrong_and_where(encode: Encode) -> None:
    """As the service's problem document has it."""
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


def test_what_is_no_json_is_the_callers_fault(encode: Encode) -> None:
    """It is told before anything is sent."""
    with pytest.raises(TypeError, match="not JSON: object"):
        encode(token_ids=[object()])


def test_a_key_is_presented(service: Service, make_blocked_service: MakeBlockedService) -> None:
    """And a wrong one refused, with its code."""
    held, gate = make_blocked_service(api_keys=["secret"])
    gate.opened.set()

    async def call(key: str | None) -> Encoded:
        async with AsyncClient("http://service", key, transport=httpx.ASGITransport(held.app)) as client:
            return await client.encode("a", outputs=["pooled_output"])

    same(held.run(call("secret")).pooled_output, service.encode(texts="a").json()["pooled_output"])
    for key in ("wrong", None):
        with pytest.raises(EncodeError) as caught:
            held.run(call(key))
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_the_services_deadline_is_the_clients(make_blocked_service: MakeBlockedService) -> None:
    """Work that nobody waits for is given up on both sides."""
    held, _ = make_blocked_service()

    async def call() -> Encoded:
        transport = httpx.ASGITransport(held.app)
        async with AsyncClient("http://service", timeout=0.2, transport=transport) as client:
            return await client.encode(token_ids=[5])

    with pytest.raises(EncodeError) as caught:
        held.run(call())
    assert caught.value.code == "deadline_exceeded"
    assert caught.value.status in (0, 504)


# === Patience, with a clock and a server of our own ===


class Clock:
    """Time that passes when somebody sleeps, or a server takes its time.

    Attributes:
        now: The time.
        slept: How long each sleep was.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The client's clock."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def busy(status: int = 503, retry_after: str | None = None) -> httpx.Response:
    """Return a refusal that passes."""
    document = {"code": "overloaded", "detail": "the queue is full", "errors": []}
    return httpx.Response(status, json=document, headers={} if retry_after is None else {"Retry-After": retry_after})


def done() -> httpx.Response:
    """Return an answer."""
    arrays = {"lengths": np.array([1], np.int32), "pooled_output": np.ones((1, 2), np.float32)}
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    return httpx.Response(200, content=archive.getvalue())


@contextmanager
def answering(
    *answers: httpx.Response | Exception, **options: Any
) -> Iterator[tuple[Callable[[], Encoded], list[httpx.Request]]]:
    """Give a call to a server that answers in turn, and the requests that came to it."""
    rest = iter(answers)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = next(rest)
        if isinstance(found, Exception):
            raise found
        return found

    with Client("http://service/", **options, transport=httpx.MockTransport(answer)) as client:
        yield lambda: client.encode("a"), seen


@pytest.mark.parametrize(
    "failure", [busy(503), busy(429), httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone")], ids=repr
)
def test_what_passes_is_tried_again(clock: Clock, failure: httpx.Response | Exception) -> None:
    """With longer and longer pauses."""
    with answering(failure, failure, failure, done()) as (call, seen):
        assert call().lengths.tolist() == [1]
    assert len(seen) == 4
    assert len({request.content for request in seen}) == 1
    for slept, least in zip(clock.slept, [0.25, 0.5, 1.0], strict=True):
        assert least <= slept <= least * 1.25


def test_the_server_says_how_long_to_wait(clock: Clock) -> None:
    """A little is added, so that not all come back at once."""
    with answering(busy(429, "7"), busy(503, "2"), busy(503, "soon"), done()) as (call, _):
        call()
    for slept, (least, most) in zip(clock.slept, [(7, 7.1), (2, 2.2), (1, 1.3)], strict=True):
        assert least <= slept <= most


def test_patience_ends_with_the_tries(clock: Clock) -> None:
    """The last failure is told."""
    with answering(httpx.ConnectError("refused"), busy(429, "1"), retries=1) as (call, seen):
        with pytest.raises(EncodeError) as caught:
            call()
        assert len(seen) == 2
    assert (caught.value.status, caught.value.code, caught.value.detail) == (429, "overloaded", "the queue is full")
    with answering(httpx.ConnectError("refused"), retries=0) as (call, _):
        with pytest.raises(EncodeError, match=r"^unreachable: refused$") as caught:
            call()
        assert caught.value.status == 0


def test_patience_ends_with_the_time(clock: Clock) -> None:
    """Nobody sleeps for a try that could not be made."""
    with answering(busy(503, "4"), busy(503, "4"), busy(503, "4"), timeout=10.0, retries=9) as (call, seen):
        with pytest.raises(EncodeError):
            call()
        assert len(seen) == 3
    assert sum(clock.slept) < 10
    with answering(busy(503, "3600")) as (call, seen):
        with pytest.raises(EncodeError):
            call()
        assert len(seen) == 1


def test_each_try_tells_the_server_how_long_it_has(clock: Clock) -> None:
    """What is left of the whole, and what is asked for."""
    with answering(busy(503, "4"), done(), timeout=10.0, api_key="k") as (call, seen):
        call()
    first, second = (float(request.headers["X-Request-Timeout"]) for request in seen)
    assert first == 10
    assert 5.9 < second <= 6
    assert {request.headers["Accept"] for request in seen} == {"application/x-npz"}
    assert {request.headers["Authorization"] for request in seen} == {"Bearer k"}
    assert {str(request.url) for request in seen} == {"http://service/v1/encode"}


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
def test_what_does_not_pass_is_not_tried_again(clock: Clock, status: int) -> None:
    """Another try would fail as well."""
    with answering(busy(status)) as (call, _), pytest.raises(EncodeError) as caught:
        call()
    assert caught.value.status == status
    assert not clock.slept


def test_a_late_answer_is_told(clock: Clock) -> None:
    """Whether nothing came or not all of it."""

    def trickle() -> Iterator[bytes]:
        for _ in range(5):
            clock.now += 3
            yield b"x"

    for answer in (httpx.ReadTimeout("late"), httpx.Response(200, content=trickle())):
        with answering(answer, timeout=10.0, retries=0) as (call, _), pytest.raises(EncodeError) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (0, "deadline_exceeded")
        assert caught.value.detail == "no answer within 10 seconds"


@given(st.binary(max_size=40), st.sampled_from([200, 404, 502]))
def test_whatever_a_stranger_answers_is_an_error(content: bytes, status: int) -> None:
    """A proxy's page, or a file that wants to be unpickled."""
    answer = httpx.Response(status, content=content)
    with answering(answer) as (call, _), pytest.raises(EncodeError) as caught:
        call()
    assert (caught.value.status, caught.value.code) == (status, "bad_answer")


@pytest.mark.parametrize("pickled", [True, False])
def test_nothing_is_unpickled(pickled: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """Neither an archive of objects nor one without its lengths is read."""
    arrays: dict[str, Any] = {"pooled_output": np.ones((1, 2), np.float32)}
    if pickled:
        arrays["lengths"] = np.array([{}], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    answer = httpx.Response(200, content=buffer.getvalue())
    with answering(answer) as (call, _), pytest.raises(EncodeError, match="no NumPy archive of this service"):
        call()


# === Where it lives ===


def test_it_needs_no_model() -> None:
    """Neither JAX nor the web framework is loaded by it."""
    script = "import sys, service.client; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    loaded = set(ran.stdout.split())
    assert {"httpx", "numpy"} <= loaded
    assert not loaded & {"jax", "keras", "h5py", "sentencepiece", "fastapi", "pydantic", "model"}
