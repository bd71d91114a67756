"""Everything that a request can fail with.

    ServiceError
    ├── the client can mend it
    │   ├── BadRequestError          not JSON, or a header that says nothing sensible
    │   ├── UnauthorizedError        no key, or a wrong one
    │   ├── NotFoundError            no such route or model
    │   ├── MethodNotAllowedError    the route has other methods
    │   ├── BodyTooLargeError        more bytes than the limit, as sent or inflated
    │   ├── TooManySequencesError    more sequences than one request may hold
    │   └── InvalidInputError        JSON that describes no input of this model
    ├── the client can wait for it
    │   ├── OverloadedError          the queue is full
    │   ├── NotReadyError            still loading or compiling
    │   └── DrainingError            shutting down
    └── the client cannot help it
        ├── DeadlineExceededError    the time was up before the answer was there
        ├── NonFiniteOutputError     the network gave NaN or infinity
        ├── WorkerFailedError        the worker died or never started
        └── InternalError            a defect of this program

An error carries a code, which clients see, and a message for its reader. What HTTP status a code gets is the business
of `service.web.statuses`, but for connections that are refused before they speak a protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

# How many places an answer names.
MAX_PROBLEMS = 20

# Codes of what is refused before it is a request, by the status that its sender sees.
CONNECTION_CODES: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.REQUEST_TIMEOUT: "head_timeout",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head_too_large",
    HTTPStatus.SERVICE_UNAVAILABLE: "too_many_connections",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input.

    Attributes:
        loc: Where, as keys and indices from the outside in: `("token_ids", 3, 17)`.
        msg: What is wrong, and what would be right.
    """

    loc: tuple[str | int, ...]
    msg: str

    def __str__(self) -> str:
        """Return it as a sentence that begins with the place: `token_ids[3][17]: …`."""
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.loc)
        return f"{place.lstrip('.') or 'the body'}: {self.msg}"


class ServiceError(Exception):
    """A request failed, for a reason that its sender may know.

    Attributes:
        code: The reason, in one word that stays the same.
        problems: What is wrong at which place of the input, where that is the reason.
        retry_after: Seconds after which another try makes sense, where one does.
    """

    code: ClassVar[str]

    def __init__(self, detail: str, *, problems: Sequence[Problem] = (), retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)
        self.retry_after = retry_after


class BadRequestError(ServiceError):
    """The body is no JSON, or a header makes no sense."""

    code = "bad_request"


class UnauthorizedError(ServiceError):
    """The request has no key, or a wrong one."""

    code = "unauthorized"


class NotFoundError(ServiceError):
    """There is no such route or model."""

    code = "not_found"


class MethodNotAllowedError(ServiceError):
    """The route has other methods."""

    code = "method_not_allowed"


class BodyTooLargeError(ServiceError):
    """The body has more bytes than the limit, as sent or inflated."""

    code = "body_too_large"


class TooManySequencesError(ServiceError):
    """The request holds more sequences than one may."""

    code = "too_many_sequences"


class InvalidInputError(ServiceError):
    """The request is JSON, but no input of this model."""

    code = "invalid_input"

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> InvalidInputError:
        """Return the error for what is wrong at one place or more; a message too long to read helps nobody."""
        rest = len(problems) - 1
        # Whoever counts stops at some point.
        more = "" if not rest else f" (and {rest} more)" if len(problems) < MAX_PROBLEMS else " (and more)"
        return cls(f"{problems[0]}{more}", problems=problems[:MAX_PROBLEMS])


class OverloadedError(ServiceError):
    """The queue has no room for the request."""

    code = "overloaded"


class NotReadyError(ServiceError):
    """The model is loading or compiling."""

    code = "not_ready"


class DrainingError(ServiceError):
    """The process is shutting down and takes no new work."""

    code = "draining"


class DeadlineExceededError(ServiceError):
    """The request's time was up before its answer was there."""

    code = "deadline_exceeded"


class NonFiniteOutputError(ServiceError):
    """The network gave NaN or infinity for this input."""

    code = "non_finite_output"


class WorkerFailedError(ServiceError):
    """The worker died, or never started."""

    code = "worker_failed"


class InternalError(ServiceError):
    """A defect of this program."""

    code = "internal_error"
