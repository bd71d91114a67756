"""Errors as problem documents (RFC 9457), and their description for OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel

from service.core.errors import ServiceError
from service.web.encoding import json_bytes
from service.web.statuses import headers, status, title

PROBLEM = "application/problem+json"


class ProblemItem(BaseModel):
    """One place of the input at which something is wrong."""

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
    """Return an error as a problem document."""
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
_REFUSAL: dict[str, Any] = {"description": "Refused or failed, with the reason", "content": PROBLEM_CONTENT}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of answers that are problem documents."""
    return dict.fromkeys(statuses, _REFUSAL)
