"""Mapping of error codes to HTTP status, title and headers, shared by all protocols."""

from __future__ import annotations

from service.core.errors import ServiceError

STATUSES: dict[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "too_many_sequences": 422,
    "invalid_input": 422,
    "overloaded": 429,
    "non_finite_output": 500,
    "internal_error": 500,
    "not_ready": 503,
    "draining": 503,
    "worker_failed": 503,
    "deadline_exceeded": 504,
}


def status(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return STATUSES[error.code]


def title(error: ServiceError) -> str:
    """Return the error code as a title."""
    return error.code.replace("_", " ").capitalize()


def headers(error: ServiceError) -> dict[str, str]:
    """Return the headers of an error response."""
    result = {}
    if error.retry_after is not None:
        result["Retry-After"] = str(error.retry_after)
    if error.code == "draining":
        result["Connection"] = "close"
    if error.code == "unauthorized":
        result["WWW-Authenticate"] = "Bearer"
    return result
