"""The error tree is told once, and the table of statuses covers all of it."""

from __future__ import annotations

import re

import pytest

from service.core import errors
from service.core.errors import MAX_PROBLEMS, InvalidInputError, OverloadedError, Problem, ServiceError
from service.web.problem import PROBLEM, render_error
from service.web.statuses import STATUSES, headers, status, title

# The contract's table.
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
    """Return all classes below `kind` in its module; a protocol may refine one for words of its own."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [descendant for child in children for descendant in [child, *family(child)]]


CONCRETE = [kind for kind in family(ServiceError) if not family(kind)]


@pytest.mark.parametrize("kind", CONCRETE)
def test_every_error_has_a_code_a_status_and_a_sentence(kind: type[ServiceError]) -> None:
    """A class of the tree says what it means, and can be answered with."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.__doc__
    assert kind.__doc__ != ServiceError.__doc__
    error = kind("what happened")
    assert 400 <= status(error) < 600
    assert str(error) == error.detail == "what happened"
    assert title(error)[0].isupper()


def test_codes_are_unique() -> None:
    """A code means one thing."""
    codes = [kind.code for kind in CONCRETE]
    assert sorted(set(codes)) == sorted(codes)


def test_the_table_of_statuses_is_whole() -> None:
    """Every code has a status, and every status of the table a code."""
    assert {kind.code for kind in CONCRETE} == set(STATUSES)


def test_statuses_are_those_of_the_contract() -> None:
    """Clients rely on them."""
    assert STATUSES == CONTRACT


def test_the_drawn_tree_names_exactly_the_classes() -> None:
    """The module's picture of the family leaves nobody out and invents nobody."""
    drawn = re.findall(r"── (\w+Error) ", errors.__doc__ or "")
    assert drawn == [kind.__name__ for kind in CONCRETE]
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert defined == {*drawn, "ServiceError"}


@pytest.mark.parametrize("kind", CONCRETE)
def test_seconds_to_wait_become_a_header(kind: type[ServiceError]) -> None:
    """Retry-After stands wherever another try makes sense, and nowhere else."""
    assert headers(kind("…", retry_after=7))["Retry-After"] == "7"
    assert "Retry-After" not in headers(kind("…"))


def test_draining_closes_the_connection() -> None:
    """A client is to find another replica, not this one again."""
    assert headers(errors.DrainingError("…")) == {"Connection": "close"}


def test_a_missing_key_names_the_scheme() -> None:
    """RFC 9110 wants a challenge with a 401."""
    assert headers(errors.UnauthorizedError("…")) == {"WWW-Authenticate": "Bearer"}


def test_a_problem_reads_as_a_sentence_that_begins_with_the_place() -> None:
    """Keys and indices are written as in the client's own JSON."""
    assert str(Problem(("token_ids", 3, 17), "is wrong")) == "token_ids[3][17]: is wrong"
    assert str(Problem(("a", "b", 0), "is wrong")) == "a.b[0]: is wrong"
    assert str(Problem((), "is wrong")) == "the body: is wrong"


def test_many_problems_make_a_short_answer() -> None:
    """The first is spelled out, the rest counted as far as anybody counts, and only so many are listed."""
    problems = [Problem(("texts", index), "is wrong") for index in range(500)]
    assert InvalidInputError.of(problems[:3]).detail == "texts[0]: is wrong (and 2 more)"
    error = InvalidInputError.of(problems)
    assert error.detail == "texts[0]: is wrong (and more)"
    assert len(error.problems) == MAX_PROBLEMS


def test_errors_are_answered_as_problem_documents() -> None:
    """The body has RFC 9457's members, the code, and each place with what is wrong there."""
    answer = render_error(OverloadedError("full", problems=[Problem(("a", 1), "is wrong")], retry_after=3))
    assert answer.status_code == 429
    assert answer.media_type == PROBLEM == "application/problem+json"
    assert answer.headers["retry-after"] == "3"
    assert bytes(answer.body) == (
        b'{"type":"about:blank","title":"Overloaded","status":429,"detail":"full","code":"overloaded",'
        b'"errors":[{"loc":["a",1],"msg":"is wrong"}]}'
    )
