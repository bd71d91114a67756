"""The error hierarchy and the status table agree."""

from __future__ import annotations

import re

import pytest

from service.core import errors
from service.core.errors import MAX_PROBLEMS, InvalidInputError, OverloadedError, Problem, ServiceError
from service.web.problem import PROBLEM, render_error
from service.web.statuses import STATUSES, headers, status, title

# Status table of the contract.
CONTRACT = {
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


def family(kind: type[ServiceError]) -> list[type[ServiceError]]:
    """Return all subclasses of `kind` in its module. Protocols may define further subclasses."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [descendant for child in children for descendant in [child, *family(child)]]


CONCRETE = [kind for kind in family(ServiceError) if not family(kind)]


@pytest.mark.parametrize("kind", CONCRETE)
def test_error_has_code_status_and_description(kind: type[ServiceError]) -> None:
    """Each class has a docstring and can be rendered."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.__doc__
    assert kind.__doc__ != ServiceError.__doc__
    error = kind("a reason")
    assert 400 <= status(error) < 600
    assert str(error) == error.detail == "a reason"
    assert title(error)[0].isupper()


def test_codes_are_unique() -> None:
    """No two classes share a code."""
    codes = [kind.code for kind in CONCRETE]
    assert sorted(set(codes)) == sorted(codes)


def test_status_table_is_complete() -> None:
    """The table contains exactly the codes of the classes."""
    assert {kind.code for kind in CONCRETE} == set(STATUSES)


def test_statuses_match_the_contract() -> None:
    """Each code has the status of the contract."""
    assert STATUSES == CONTRACT


def test_documented_hierarchy_lists_all_classes() -> None:
    """The module docstring lists exactly the defined classes."""
    documented = re.findall(r"── (\w+Error) ", errors.__doc__ or "")
    assert documented == [kind.__name__ for kind in CONCRETE]
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert defined == {*documented, "ServiceError"}


@pytest.mark.parametrize("kind", CONCRETE)
def test_retry_after_becomes_a_header(kind: type[ServiceError]) -> None:
    """Only errors with `retry_after` have a Retry-After header."""
    assert headers(kind("…", retry_after=7))["Retry-After"] == "7"
    assert "Retry-After" not in headers(kind("…"))


def test_draining_closes_the_connection() -> None:
    """A new connection reaches another replica."""
    assert headers(errors.DrainingError("…")) == {"Connection": "close"}


def test_unauthorized_error_has_a_challenge() -> None:
    """RFC 9110 requires a challenge with status 401."""
    assert headers(errors.UnauthorizedError("…")) == {"WWW-Authenticate": "Bearer"}


def test_problem_text_starts_with_the_location() -> None:
    """Keys and indices follow JSON path notation."""
    assert str(Problem(("token_ids", 3, 17), "is wrong")) == "token_ids[3][17]: is wrong"
    assert str(Problem(("a", "b", 0), "is wrong")) == "a.b[0]: is wrong"
    assert str(Problem((), "is wrong")) == "the body: is wrong"


def test_number_of_problems_in_a_response_is_limited() -> None:
    """The detail states the first problem and counts the rest; the list has a maximum length."""
    problems = [Problem(("texts", index), "is wrong") for index in range(500)]
    assert InvalidInputError.of(problems[:3]).detail == "texts[0]: is wrong (and 2 more)"
    error = InvalidInputError.of(problems)
    assert error.detail == "texts[0]: is wrong (and more)"
    assert len(error.problems) == MAX_PROBLEMS


def test_errors_are_rendered_as_problem_documents() -> None:
    """The body has the members of RFC 9457, the code, and the location of each problem."""
    response = render_error(OverloadedError("full", problems=[Problem(("a", 1), "is wrong")], retry_after=3))
    assert response.status_code == 429
    assert response.media_type == PROBLEM == "application/problem+json"
    assert response.headers["retry-after"] == "3"
    assert bytes(response.body) == (
        b'{"type":"about:blank","title":"Overloaded","status":429,"detail":"full","code":"overloaded",'
        b'"errors":[{"loc":["a",1],"msg":"is wrong"}]}'
    )
