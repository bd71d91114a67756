"""Parsing of JSON bodies in all protocols."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from service.core.errors import ServiceError
from service.protocols import native, oip, openai, tei
from service.web.bodies import exclusive_if_large
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import Service

MAX_SEQUENCES = 8
LARGE = json.dumps({"texts": "a" * 70_000, "token_ids": [5] * 5_000, "inputs": []}).encode()
HUGE = [1 << 64, 10**30, -(1 << 64)]

Parse = Callable[[bytes], Any]


@pytest.mark.parametrize(
    "parse",
    [
        lambda body: native.parse(body, "", MAX_SEQUENCES),
        lambda body: openai.parse(body, MAX_SEQUENCES),
        lambda body: oip.parse(body, None, MAX_SEQUENCES),
        lambda body: tei.parse_embed(body, MAX_SEQUENCES),
        lambda body: tei.parse_embed_all(body, MAX_SEQUENCES),
    ],
    ids=["native", "openai", "oip", "tei embed", "tei embed_all"],
)
def test_large_bodies_are_parsed_one_at_a_time(parse: Parse) -> None:
    """Two large bodies do not run in parallel; a small body waits for none."""
    started, done = threading.Event(), threading.Event()

    def other() -> None:
        started.set()
        with suppress(ServiceError):
            parse(LARGE)
        done.set()

    thread = threading.Thread(target=other)
    with exclusive_if_large(LARGE):
        thread.start()
        assert started.wait(TIMEOUT)
        with suppress(ServiceError):
            parse(b"{}")
        assert not done.wait(0.2)
    assert done.wait(TIMEOUT)
    thread.join(TIMEOUT)


def test_garbage_collector_is_disabled_while_a_large_body_is_parsed() -> None:
    """The garbage collector is enabled again afterwards, also after an error."""
    with exclusive_if_large(b"{}"):
        assert gc.isenabled()
    with suppress(ServiceError), exclusive_if_large(LARGE):
        assert not gc.isenabled()
        native.parse(b"no JSON", "", MAX_SEQUENCES)
    assert gc.isenabled()


def test_flat_list_that_starts_with_a_huge_integer_is_one_sequence() -> None:
    """The error is about the integer and not about the number of sequences."""
    with pytest.raises(ServiceError, match="64 bits"):
        openai.parse(json.dumps({"model": "m", "input": [1 << 64, *[5] * MAX_SEQUENCES]}).encode(), MAX_SEQUENCES)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/encode", {"token_ids": [[1, 0]]}),
        ("/v1/encode", {"token_ids": [0]}),
        ("/v1/encode", {"token_ids": [[1]], "segment_ids": [[0]]}),
        ("/v1/detokenize", {"token_ids": [[0]]}),
        ("/v1/embeddings", {"model": "tiny_en", "input": [0]}),
        ("/v1/embeddings", {"model": "tiny_en", "input": [[1, 0]]}),
        ("/embed", {"inputs": [[0]]}),
        ("/decode", {"ids": [0]}),
        (
            "/v2/models/tiny_en/infer",
            {"inputs": [{"name": "token_ids", "shape": [1, 1], "datatype": "INT64", "data": [0]}]},
        ),
    ],
)
def test_integer_beyond_64_bits_is_reported_as_too_large(
    service: Service, path: str, body: dict[str, Any], value: int
) -> None:
    """The error is about its size and not about its type."""
    written = json.dumps(body)
    location = written.rindex("0]")
    answer = service.post(path, content=written[:location] + str(value) + written[location + 1 :])
    assert answer.status_code in (400, 422)
    assert "does not fit" in answer.text
    assert "integer" not in answer.text


def test_number_with_fraction_is_not_an_integer(service: Service) -> None:
    """A float is rejected in any notation."""
    for value in (1.0, 1.5, 1e15):
        assert "token_ids[0]: Input should be a valid integer" in service.encode(token_ids=[value]).text
