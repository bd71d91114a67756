"""Problem documents (RFC 9457) and their OpenAPI description."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel

from service.core.errors import ServiceError
from service.web.encoding import json_bytes
from service.web.statuses import headers, status, title

PROBLEM = "application/problem+json"


class ProblemItem(BaseModel):
    """One invalid location of the input."""

    loc: list[str | int]
    msg: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemItem]


def render_error(error: ServiceError) -> Response:
    """Render an error as a problem document."""
    document = {
        "type": "about:blank",
        "title": title(error),
        "status": status(error),
        "detail": error.detail,
        "code": error.code,
        "errors": [{"loc": list(problem.loc), "msg": problem.msg} for problem in error.problems],
    }
    return Response(json_bytes(document), status(error), headers(error), media_type=PROBLEM)


PROBLEM_CONTENT: dict[str, Any] = {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
_ERROR: dict[str, Any] = {"description": "Error with its reason", "content": PROBLEM_CONTENT}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error responses with these statuses."""
    return dict.fromkeys(statuses, _ERROR)
