"""Client library for `/v1/encode`. It returns NumPy arrays and retries requests that the server rejects as overload.

`Client` and `AsyncClient` differ only in how they send and sleep. The module requires httpx and NumPy, but no model.
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
# Statuses of errors that a retry can resolve.
_RETRIED = frozenset({429, 503})
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.25, 8.0
_MIN_TIMEOUT_SECONDS = 0.001


class Fields(TypedDict, total=False):
    """Fields of a request besides its texts. The service supplies defaults for absent fields.

    Attributes:
        token_ids: Token ids instead of texts: one list per sequence, or a single list.
        segment_ids: Segment ids in the shape of `token_ids`.
        outputs: Outputs to return.
        normalize: Whether to L2-normalize pooled and mean rows.
        truncate: Whether to truncate sequences that are too long.
        padding: Padding of texts: `none`, `max_length` or a length in tokens.
    """

    token_ids: Ids | None
    segment_ids: Ids | None
    outputs: Sequence[Output] | None
    normalize: bool | None
    truncate: bool | None
    padding: Literal["none", "max_length"] | int | None


class EncodeError(Exception):
    """The server rejected the request, failed or is unreachable.

    Attributes:
        status: HTTP status; 0 without a response.
        code: Error code of the service; `unreachable` without a response, and `bad_answer` if the response is not from
            this service.
        detail: Message for people.
        problems: Problems of the request, if it is invalid.
    """

    def __init__(self, status: int, code: str, detail: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Requested outputs in the order of the request. Other outputs are `None`.

    Attributes:
        pooled_output: float32 `[sequences, hidden_dim]`.
        mean_output: float32 `[sequences, hidden_dim]`.
        sequence_output: float32 `[tokens, hidden_dim]` per sequence.
        lengths: int32 `[sequences]`, number of tokens per sequence.
    """

    pooled_output: Array | None
    mean_output: Array | None
    sequence_output: list[Array] | None
    lengths: npt.NDArray[np.int32]


# === Requests, responses and retries of both clients ===


@dataclass(frozen=True, slots=True)
class _Options:
    """Options of a client.

    Attributes:
        api_key: API key sent with each request.
        timeout: Maximum duration of a call in seconds, including retries.
        retries: Maximum number of retries.
    """

    api_key: str | None
    timeout: float
    retries: int


@dataclass(frozen=True, slots=True)
class _Send:
    """Step: send a request with a timeout in seconds. A request without content is a GET."""

    path: str
    content: bytes | None
    headers: dict[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class _Sleep:
    """Step: wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """The response to a request."""

    status: int
    retry_after: str
    content: bytes


# A call as a generator: it yields steps, receives their outcomes and returns the result.
_Outcome = _Answer | httpx.TransportError | TimeoutError | None
_CallFlow = Generator[_Send | _Sleep, _Outcome, T]


def _body(texts: Texts | None, fields: Fields) -> bytes:
    """Return the body of a request without the fields that are `None`."""
    present = {name: value for name, value in {"texts": texts, **fields}.items() if value is not None}
    return json.dumps(present, default=_to_json).encode()


def _to_json(value: Any) -> Any:
    """Convert NumPy arrays and numbers to lists and numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}; send lists, arrays and numbers")


def _headers(options: _Options, content: bytes | None, timeout: float) -> dict[str, str]:
    """Return the headers of a request. The server applies the timeout of the client."""
    headers = {"X-Request-Timeout": f"{timeout:.3f}"}
    if content is not None:
        headers |= {"Accept": _NPZ, "Content-Type": "application/json"}
    if options.api_key is not None:
        headers["Authorization"] = f"Bearer {options.api_key}"
    return headers


def _read(answer: _Answer) -> Encoded:
    """Parse a response of `/v1/encode`.

    Raises:
        EncodeError: The response is an error or not from this service.
    """
    if answer.status != httpx.codes.OK:
        raise _error(answer)
    try:
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as archive:
            arrays: dict[str, npt.NDArray[Any]] = dict(archive)
        lengths = arrays["lengths"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise EncodeError(
            answer.status, "bad_answer", "the response is not a NumPy archive of this service; check the URL"
        ) from error
    joined = arrays.get("sequence_output")
    return Encoded(
        pooled_output=arrays.get("pooled_output"),
        mean_output=arrays.get("mean_output"),
        sequence_output=None if joined is None else np.split(joined, np.cumsum(lengths)[:-1]),
        lengths=lengths,
    )


def _read_info(answer: _Answer) -> dict[str, Any]:
    """Parse a response of `/v1/info`.

    Raises:
        EncodeError: The response is an error or not from this service.
    """
    if answer.status != httpx.codes.OK:
        raise _error(answer)
    try:
        description = json.loads(answer.content)
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise EncodeError(
            answer.status, "bad_answer", "the response is not a description of this service; check the URL"
        )
    return description


def _error(answer: _Answer) -> EncodeError:
    """Return the error of a response from the service, or from a proxy in front of it."""
    try:
        document = json.loads(answer.content)
        problems = [Problem(tuple(item["loc"]), str(item["msg"])) for item in document["errors"]]
        return EncodeError(answer.status, str(document["code"]), str(document["detail"]), problems)
    except (ValueError, KeyError, TypeError):
        return EncodeError(
            answer.status,
            "bad_answer",
            f"status {answer.status} without a problem document of this service; check the URL",
        )


def _pause(retry: int, retry_after: float) -> float:
    """Return the seconds until a retry: exponential backoff with jitter, and at least `retry_after`."""
    backoff: float = min(_MAX_PAUSE_SECONDS, _MIN_PAUSE_SECONDS * 2**retry)
    return max(retry_after, backoff) + random.uniform(0, backoff / 4)  # noqa: S311 - not a secret


def _steps(options: _Options, path: str, content: bytes | None, read: Callable[[_Answer], T]) -> _CallFlow[T]:
    """Perform a call, with retries while the error is temporary and time remains.

    Args:
        options: Options of the client.
        path: Path of the route.
        content: Body of the request; `None` for a GET.
        read: Parses the response.

    Returns:
        The parsed response.

    Raises:
        EncodeError: The last request failed.
    """
    end = time.monotonic() + options.timeout
    for retry in itertools.count():
        timeout = max(end - time.monotonic(), _MIN_TIMEOUT_SECONDS)
        outcome = yield _Send(path, content, _headers(options, content, timeout), timeout)
        retry_after = 0.0
        if isinstance(outcome, _Answer):
            if outcome.status not in _RETRIED:
                return read(outcome)
            failure = _error(outcome)
            # Seconds (RFC 9110, section 10.2.3); the service does not send dates.
            retry_after = float(outcome.retry_after) if outcome.retry_after.isdecimal() else 0.0
        elif isinstance(outcome, httpx.TimeoutException | TimeoutError):
            failure = EncodeError(0, "deadline_exceeded", f"no response within {options.timeout:g} s")
        else:
            failure = EncodeError(0, "unreachable", str(outcome) or type(outcome).__name__)
        pause = _pause(retry, retry_after)
        if retry >= options.retries or time.monotonic() + pause >= end:
            break
        yield _Sleep(pause)
    raise failure


def _method(step: _Send) -> str:
    return "GET" if step.content is None else "POST"


# === The clients ===


class Client:
    """A thread-safe client of one service. Use it as a context manager, or call `close`.

    Args:
        base_url: URL of the service: `http://127.0.0.1:8000`.
        api_key: API key, if the service requires one.
        timeout: Maximum duration of a call in seconds, including retries.
        retries: Maximum number of retries while the service is overloaded, not ready or unreachable.
        transport: HTTP transport that replaces the network.
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
        """Close the connections."""
        self._http.close()

    def encode(self, texts: Texts | None = None, **fields: Unpack[Fields]) -> Encoded:
        """Encode texts, pairs of texts or token ids.

        Args:
            texts: A text, or a list of texts and pairs of texts.
            fields: Other fields of the request.

        Returns:
            The requested outputs.

        Raises:
            EncodeError: The service rejected the request, failed or was unreachable.
        """
        return self._call(_steps(self._options, _PATH, _body(texts, fields), _read))

    def info(self) -> dict[str, Any]:
        """Return the description of the service from `/v1/info`: preset, digest, dtype, limits.

        Raises:
            EncodeError: The service failed or was unreachable.
        """
        return self._call(_steps(self._options, _INFO_PATH, None, _read_info))

    def _call(self, steps: _CallFlow[T]) -> T:
        step = next(steps)
        while True:
            try:
                step = steps.send(self._do(step))
            except StopIteration as stop:
                result: T = stop.value
                return result

    def _do(self, step: _Send | _Sleep) -> _Outcome:
        if isinstance(step, _Sleep):
            time.sleep(step.seconds)
            return None
        end = time.monotonic() + step.timeout
        chunks = []
        try:
            with self._http.stream(
                _method(step), step.path, content=step.content, headers=step.headers, timeout=step.timeout
            ) as response:
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    # httpx limits the time of each read, not of the whole response.
                    if time.monotonic() > end:
                        return TimeoutError("the response took too long")
        except httpx.TransportError as error:
            return error
        return _Answer(response.status_code, response.headers.get("Retry-After", ""), b"".join(chunks))


class AsyncClient:
    """An asyncio client of one service. Use it as an asynchronous context manager, or call `aclose`.

    Args:
        base_url: URL of the service: `http://127.0.0.1:8000`.
        api_key: API key, if the service requires one.
        timeout: Maximum duration of a call in seconds, including retries.
        retries: Maximum number of retries while the service is overloaded, not ready or unreachable.
        transport: HTTP transport that replaces the network.
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
        """Close the connections."""
        await self._http.aclose()

    async def encode(self, texts: Texts | None = None, **fields: Unpack[Fields]) -> Encoded:
        """Encode texts, pairs of texts or token ids; see `Client.encode`."""
        return await self._call(_steps(self._options, _PATH, _body(texts, fields), _read))

    async def info(self) -> dict[str, Any]:
        """Return the description of the service; see `Client.info`."""
        return await self._call(_steps(self._options, _INFO_PATH, None, _read_info))

    async def _call(self, steps: _CallFlow[T]) -> T:
        step = next(steps)
        while True:
            try:
                step = steps.send(await self._do(step))
            except StopIteration as stop:
                result: T = stop.value
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
