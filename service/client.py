"""A client of `/v1/encode`: NumPy arrays in answer to texts or ids, with patience for a busy server.

`Client` and `AsyncClient` differ in how they send and sleep alone. It needs httpx and NumPy, and no model.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack
from zipfile import BadZipFile

import httpx
import numpy as np
import numpy.typing as npt

from service.core.errors import Problem

T = TypeVar("T")

Array = npt.NDArray[np.float32]
Ids = Sequence[int] | Sequence[Sequence[int]]
Texts = str | Sequence[str | tuple[str, str] | list[str]]
Output = Literal["sequence_output", "pooled_output", "mean_output"]

_PATH, _INFO_PATH, _NPZ = "/v1/encode", "/v1/info", "application/x-npz"
# The server may be there in a moment, or says when it will have room.
_RETRIED = frozenset({429, 503})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_LEAST_SECONDS = 0.001


class Fields(TypedDict, total=False):
    """What a request may say beside its texts; what it leaves out is as the service has it.

    Attributes:
        token_ids: In place of texts, ids: one list a sequence, or a single list.
        segment_ids: Ids in the shape of `token_ids`.
        outputs: What to return.
        normalize: Whether pooled and mean rows get a Euclidean length of 1.
        truncate: Whether what is too long is cut.
        padding: What texts are padded to.
    """

    token_ids: Ids | None
    segment_ids: Ids | None
    outputs: Sequence[Output] | None
    normalize: bool | None
    truncate: bool | None
    padding: Literal["none", "max_length"] | int | None


class EncodeError(Exception):
    """The server refused, failed or could not be reached.

    Attributes:
        status: The HTTP status, 0 where there was no answer.
        code: The reason in one word, as in the service's table of errors; `unreachable` where there was no answer, and
            `bad_answer` where it was none of this service.
        detail: The reason for its reader.
        problems: What is wrong at which place of the request, where that is the reason.
    """

    def __init__(self, status: int, code: str, detail: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What was asked for, in the order of the request; the rest is `None`.

    Attributes:
        pooled_output: `[sequences, hidden_dim]`.
        mean_output: `[sequences, hidden_dim]`.
        sequence_output: One `[tokens, hidden_dim]` a sequence.
        lengths: `[sequences]`, the tokens of each.
    """

    pooled_output: Array | None
    mean_output: Array | None
    sequence_output: list[Array] | None
    lengths: npt.NDArray[np.int32]


# === What both clients share: a request, its answer, and whether to try again ===


@dataclass(frozen=True, slots=True)
class _Options:
    """How a client behaves.

    Attributes:
        api_key: Presented with each request, where there is one.
        timeout: Seconds that a call may take, all its tries together.
        retries: Tries after the first.
    """

    api_key: str | None
    timeout: float
    retries: int


@dataclass(frozen=True, slots=True)
class _Send:
    """Something to do: send the request, with at most so many seconds for it; one without content is a GET."""

    path: str
    content: bytes | None
    headers: dict[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class _Sleep:
    """Something to do: wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back of something sent."""

    status: int
    retry_after: str
    content: bytes


# A call as steps to do, each answered with what came of it; its return value is the result.
_Outcome = _Answer | httpx.TransportError | TimeoutError | None
_CallFlow = Generator[_Send | _Sleep, _Outcome, T]


def _body(texts: Texts | None, fields: Fields) -> bytes:
    """Return a request's body; fields that were not given are left to the service."""
    given = {name: value for name, value in {"texts": texts, **fields}.items() if value is not None}
    return json.dumps(given, default=_plain).encode()


def _plain(value: Any) -> Any:
    """Let arrays stand for lists, and NumPy's numbers for numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}")


def _headers(options: _Options, content: bytes | None, left: float) -> dict[str, str]:
    """Return a try's headers; the server gives up when the client does."""
    headers = {"X-Request-Timeout": f"{left:.3f}"}
    if content is not None:
        headers |= {"Accept": _NPZ, "Content-Type": "application/json"}
    if options.api_key is not None:
        headers["Authorization"] = f"Bearer {options.api_key}"
    return headers


def _read(answer: _Answer) -> Encoded:
    """Return what an answer holds.

    Raises:
        EncodeError: It is an error, or no answer of this service.
    """
    if answer.status != httpx.codes.OK:
        raise _error(answer)
    try:
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as archive:
            arrays: dict[str, npt.NDArray[Any]] = dict(archive)
        lengths = arrays["lengths"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise EncodeError(answer.status, "bad_answer", "the answer is no NumPy archive of this service") from error
    joined = arrays.get("sequence_output")
    return Encoded(
        pooled_output=arrays.get("pooled_output"),
        mean_output=arrays.get("mean_output"),
        sequence_output=None if joined is None else np.split(joined, np.cumsum(lengths)[:-1]),
        lengths=lengths,
    )


def _read_info(answer: _Answer) -> dict[str, Any]:
    """Return a description.

    Raises:
        EncodeError: It is an error, or no answer of this service.
    """
    if answer.status != httpx.codes.OK:
        raise _error(answer)
    try:
        found = json.loads(answer.content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EncodeError(answer.status, "bad_answer", "the answer is no description of this service")
    return found


def _error(answer: _Answer) -> EncodeError:
    """Return the error that an answer tells of, whoever on the way to the service gave it."""
    try:
        document = json.loads(answer.content)
        problems = [Problem(tuple(item["loc"]), str(item["msg"])) for item in document["errors"]]
        return EncodeError(answer.status, str(document["code"]), str(document["detail"]), problems)
    except (ValueError, KeyError, TypeError):
        return EncodeError(answer.status, "bad_answer", f"status {answer.status}, without the service's own reason")


def _pause(tried: int, asked: float) -> float:
    """Return how long to wait before another try: what the server asks for, longer each time, and not all at once."""
    growing: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tried)
    return max(asked, growing) + random.uniform(0, growing / 4)  # noqa: S311 - no secret


def _steps(options: _Options, path: str, content: bytes | None, read: Callable[[_Answer], T]) -> _CallFlow[T]:
    """Make a call: a try, and others while its failure is one that passes and there is time.

    Args:
        options: How the client behaves.
        path: What is asked.
        content: What is sent; nothing for a GET.
        read: Makes a result, or an error, of an answer.

    Raises:
        EncodeError: The last try's failure.
    """
    end = time.monotonic() + options.timeout
    for tried in itertools.count():
        left = max(end - time.monotonic(), _LEAST_SECONDS)
        came = yield _Send(path, content, _headers(options, content, left), left)
        asked = 0.0
        if isinstance(came, _Answer):
            if came.status not in _RETRIED:
                return read(came)
            failure = _error(came)
            # A number of seconds (RFC 9110, section 10.2.3); the service writes no dates.
            asked = float(came.retry_after) if came.retry_after.isdecimal() else 0.0
        elif isinstance(came, httpx.TimeoutException | TimeoutError):
            failure = EncodeError(0, "deadline_exceeded", f"no answer within {options.timeout:g} seconds")
        else:
            failure = EncodeError(0, "unreachable", str(came) or type(came).__name__)
        pause = _pause(tried, asked)
        if tried >= options.retries or time.monotonic() + pause >= end:
            break
        yield _Sleep(pause)
    raise failure


def _method(step: _Send) -> str:
    return "GET" if step.content is None else "POST"


# === The clients ===


class Client:
    """A client of one service, for threads to share. Use it as a context manager, or `close` it.

    Args:
        base_url: Where the service is: `http://127.0.0.1:8000`.
        api_key: A key, where the service wants one.
        timeout: Seconds that a call may take, all its tries together.
        retries: Tries after the first, when the service is busy, not ready or out of reach.
        transport: What to send with instead of the network.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._options = _Options(api_key, timeout, retries)
        self._http = httpx.Client(base_url=base_url, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def encode(self, texts: Texts | None = None, **fields: Unpack[Fields]) -> Encoded:
        """Encode a text, texts and pairs of texts, or token ids.

        Raises:
            EncodeError: The service refused, failed or could not be reached in time.
        """
        return self._call(_steps(self._options, _PATH, _body(texts, fields), _read))

    def info(self) -> dict[str, Any]:
        """Return what `/v1/info` tells: preset, digest, dtype, limits.

        Raises:
            EncodeError: The service failed or could not be reached in time.
        """
        return self._call(_steps(self._options, _INFO_PATH, None, _read_info))

    def _call(self, steps: _CallFlow[T]) -> T:
        step = next(steps)
        while True:
            try:
                step = steps.send(self._do(step))
            except StopIteration as finished:
                result: T = finished.value
                return result

    def _do(self, step: _Send | _Sleep) -> _Outcome:
        if isinstance(step, _Sleep):
            time.sleep(step.seconds)
            return None
        end = time.monotonic() + step.timeout
        parts = []
        try:
            with self._http.stream(
                _method(step), step.path, content=step.content, headers=step.headers, timeout=step.timeout
            ) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    # httpx bounds each wait, not all of them.
                    if time.monotonic() > end:
                        return TimeoutError("the answer took too long to come")
        except httpx.TransportError as error:
            return error
        return _Answer(response.status_code, response.headers.get("Retry-After", ""), b"".join(parts))


class AsyncClient:
    """The same for an event loop. Use it as an asynchronous context manager, or `aclose` it.

    Args:
        base_url: Where the service is: `http://127.0.0.1:8000`.
        api_key: A key, where the service wants one.
        timeout: Seconds that a call may take, all its tries together.
        retries: Tries after the first, when the service is busy, not ready or out of reach.
        transport: What to send with instead of the network.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._options = _Options(api_key, timeout, retries)
        self._http = httpx.AsyncClient(base_url=base_url, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def encode(self, texts: Texts | None = None, **fields: Unpack[Fields]) -> Encoded:
        """Encode as `Client.encode` does, with the same errors."""
        return await self._call(_steps(self._options, _PATH, _body(texts, fields), _read))

    async def info(self) -> dict[str, Any]:
        """Describe the service as `Client.info` does, with the same errors."""
        return await self._call(_steps(self._options, _INFO_PATH, None, _read_info))

    async def _call(self, steps: _CallFlow[T]) -> T:
        step = next(steps)
        while True:
            try:
                step = steps.send(await self._do(step))
            except StopIteration as finished:
                result: T = finished.value
                return result

    async def _do(self, step: _Send | _Sleep) -> _Outcome:
        if isinstance(step, _Sleep):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.timeout):
                response = await self._http.request(
                    _method(step), step.path, content=step.content, headers=step.headers, timeout=None
                )
        except (httpx.TransportError, TimeoutError) as error:
            return error
        return _Answer(response.status_code, response.headers.get("Retry-After", ""), response.content)
