"""Errors of a request.

    ServiceError
    ├── client errors
    │   ├── BadRequestError          malformed body or header
    │   ├── UnauthorizedError        missing or invalid API key
    │   ├── NotFoundError            unknown route or model
    │   ├── MethodNotAllowedError    the route does not support the method
    │   ├── BodyTooLargeError        the body exceeds the limit, as sent or inflated
    │   ├── TooManySequencesError    the request exceeds the maximum number of sequences
    │   └── InvalidInputError        valid JSON that is not a valid input of this model
    ├── errors that a retry can resolve
    │   ├── OverloadedError          the queue is full
    │   ├── NotReadyError            the model is loading or compiling
    │   └── DrainingError            the service is shutting down
    └── server errors
        ├── DeadlineExceededError    the request timed out
        ├── NonFiniteOutputError     an output contains NaN or infinity
        ├── WorkerFailedError        the worker failed or did not start
        └── InternalError            a defect of the service

An error has a code for programs and a message for people. `service.web.statuses` maps codes to HTTP statuses, except
for connections that are rejected before a request exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

# Maximum number of problems in a response.
MAX_PROBLEMS = 20

# Codes of connections that are rejected before a request exists, by HTTP status.
CONNECTION_CODES: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.REQUEST_TIMEOUT: "head_timeout",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head_too_large",
    HTTPStatus.SERVICE_UNAVAILABLE: "too_many_connections",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of an input.

    Attributes:
        loc: Location as keys and indices from the outermost to the innermost: `("token_ids", 3, 17)`.
        msg: The problem and the expected value.
    """

    loc: tuple[str | int, ...]
    msg: str

    def __str__(self) -> str:
        """Return the location and the message: `token_ids[3][17]: …`."""
        loc = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.loc)
        return f"{loc.lstrip('.') or 'the body'}: {self.msg}"


class ServiceError(Exception):
    """A request failed for a reason that its client may see.

    Attributes:
        code: Stable code of the error.
        detail: Message for people.
        problems: Problems of the input, if it is invalid.
        retry_after: Seconds after which the client may retry, if a retry can succeed.
    """

    code: ClassVar[str]

    def __init__(self, detail: str, *, problems: Sequence[Problem] = (), retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)
        self.retry_after = retry_after


class BadRequestError(ServiceError):
    """The body or a header is malformed."""

    code = "bad_request"


class UnauthorizedError(ServiceError):
    """The request has no valid API key."""

    code = "unauthorized"


class NotFoundError(ServiceError):
    """The route or model is unknown."""

    code = "not_found"


class MethodNotAllowedError(ServiceError):
    """The route does not support the method."""

    code = "method_not_allowed"


class BodyTooLargeError(ServiceError):
    """The body exceeds the limit, as sent or inflated."""

    code = "body_too_large"


class TooManySequencesError(ServiceError):
    """The request exceeds the maximum number of sequences."""

    code = "too_many_sequences"


class InvalidInputError(ServiceError):
    """The request is valid JSON, but not a valid input of this model."""

    code = "invalid_input"

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> InvalidInputError:
        """Return the error for one or more problems. The message states the first problem and the number of others."""
        rest = len(problems) - 1
        # Callers stop collecting at `MAX_PROBLEMS`, so a larger number is not exact.
        more = "" if not rest else f" (and {rest} more)" if len(problems) < MAX_PROBLEMS else " (and more)"
        return cls(f"{problems[0]}{more}", problems=problems[:MAX_PROBLEMS])


class OverloadedError(ServiceError):
    """The request does not fit into the queue."""

    code = "overloaded"


class NotReadyError(ServiceError):
    """The model is loading or compiling."""

    code = "not_ready"


class DrainingError(ServiceError):
    """The process is shutting down and accepts no new requests."""

    code = "draining"


class DeadlineExceededError(ServiceError):
    """The request timed out."""

    code = "deadline_exceeded"


class NonFiniteOutputError(ServiceError):
    """An output for this input contains NaN or infinity."""

    code = "non_finite_output"


class WorkerFailedError(ServiceError):
    """The worker failed or did not start."""

    code = "worker_failed"


class InternalError(ServiceError):
    """A defect of the service."""

    code = "internal_error"
