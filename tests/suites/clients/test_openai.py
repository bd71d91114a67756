"""The OpenAI protocol with openai-python and langchain-openai."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from model.tokenizer import FNetTokenizer
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.suites.clients.conftest import Server

StartServer = Callable[..., AbstractContextManager["Server"]]
Array = npt.NDArray[np.float32]

HIDDEN = 32
POSITIONS = 64
TEXTS = ["a small dog", "", "interest rates rose again last week", "Zürich 東京 🦆"]
LONG = " ".join(["word"] * 100)


def connect(server: Server, **options: Any) -> openai.OpenAI:
    """Return a documented client, by default without retries."""
    return openai.OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, **options})


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """A client of the server."""
    with connect(server) as client:
        yield client


def encoded(server: Server, **request: Any) -> Array:
    """Return the outputs of `/v1/encode`."""
    body = {**request, "outputs": ["pooled_output"], "normalize": True}
    answer = httpx.post(f"{server.url}/v1/encode", json=body, timeout=TIMEOUT)
    assert answer.status_code == 200
    return np.array(answer.json()["pooled_output"], np.float32)


def rows(answer: openai.types.CreateEmbeddingResponse) -> Array:
    """Check the order of embeddings and return them."""
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float64).astype(np.float32)


def code_of(error: openai.APIStatusError) -> str:
    """Check the fields of an error and return its code."""
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.type == error.body["type"]
    assert error.param == error.body["param"]
    assert error.body["message"] in error.message
    assert error.request_id
    return str(error.code)


# === Embeddings ===


def test_client_gets_vectors_bit_identical_to_the_native_protocol(server: Server, client: openai.OpenAI) -> None:
    """The client requests base64 by default."""
    answer = client.embeddings.create(model=server.model, input=TEXTS)
    assert np.array_equal(rows(answer), encoded(server, texts=TEXTS))
    assert (answer.object, answer.model) == ("list", server.model)
    assert [item.object for item in answer.data] == ["embedding"] * len(TEXTS)
    assert answer._request_id


@pytest.mark.parametrize("text", ["a small dog", ""])
def test_bare_text_is_a_list_of_one(server: Server, client: openai.OpenAI, text: str) -> None:
    """An empty text is valid as well."""
    answer = client.embeddings.create(model=server.model, input=text)
    assert np.array_equal(rows(answer), encoded(server, texts=[text]))


def test_numbers_and_base64_are_equal(server: Server, client: openai.OpenAI) -> None:
    """Numbers and base64 are equal."""
    expected = encoded(server, texts=TEXTS)
    numbers = client.embeddings.create(model=server.model, input=TEXTS, encoding_format="float", user="user-1")
    assert np.array_equal(rows(numbers), expected)
    strings: Any = client.embeddings.create(model=server.model, input=TEXTS, encoding_format="base64")
    read = [np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in strings.data]
    assert np.array_equal(read, expected)


def test_ids_are_encoded_unchanged(server: Server, client: openai.OpenAI) -> None:
    """No special tokens are added."""
    tokenizer = FNetTokenizer.from_preset(server.preset)
    ids = [list(tokenizer.encode(text).token_ids) for text in TEXTS]
    by_text = client.embeddings.create(model=server.model, input=TEXTS)
    by_ids = client.embeddings.create(model=server.model, input=ids)
    assert np.array_equal(rows(by_ids), rows(by_text))
    count = sum(len(entry) for entry in ids)
    for answer in (by_text, by_ids):
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)
    bare = client.embeddings.create(model=server.model, input=[5, 6, 7])
    assert np.array_equal(rows(bare), encoded(server, token_ids=[[5, 6, 7]]))
    assert bare.usage.total_tokens == 3


def test_asynchronous_client_gets_equal_vectors(server: Server) -> None:
    """Concurrent requests equal separate requests."""
    texts = [f"text number {n} " + "and so on " * (n % 5) for n in range(24)]

    async def together() -> list[Array]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(
                *(client.embeddings.create(model=server.model, input=text) for text in texts)
            )
            assert [model.id async for model in client.models.list()] == [server.model]
        return [rows(answer) for answer in answers]

    assert np.array_equal(np.concatenate(asyncio.run(together())), encoded(server, texts=texts))


def test_fewer_dimensions_require_a_matryoshka_preset(
    server: Server, client: openai.OpenAI, start_server: StartServer, make_preset: Callable[..., Path]
) -> None:
    """Fewer dimensions require a matryoshka preset."""
    complete = client.embeddings.create(model=server.model, input=TEXTS, dimensions=HIDDEN)
    assert np.array_equal(rows(complete), encoded(server, texts=TEXTS))
    for dimensions in (8, HIDDEN + 1):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.embeddings.create(model=server.model, input="a", dimensions=dimensions)
        assert (code_of(caught.value), caught.value.param) == ("invalid_input", "dimensions")
    with start_server(make_preset("nested_en", matryoshka=True)) as nested, connect(nested) as other:
        actual = rows(other.embeddings.create(model="nested_en", input=TEXTS, dimensions=8))
        expected = encoded(nested, texts=TEXTS)[:, :8]
        assert actual.shape == (len(TEXTS), 8)
        np.testing.assert_allclose(actual, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, rtol=1e-6)


# === Models ===


def test_models_are_listed_and_described(server: Server, client: openai.OpenAI) -> None:
    """The list has the served model."""
    (model,) = client.models.list()
    assert (model.id, model.object) == (server.model, "model")
    assert time.time() - 3600 < model.created <= time.time()
    assert client.models.retrieve(server.model) == model
    for name in ("text-embedding-3-small", "other/model"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert code_of(caught.value) == "not_found"


# === Errors ===


def test_unknown_model_is_not_found(server: Server, client: openai.OpenAI) -> None:
    """The message names the served model."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert (code_of(caught.value), caught.value.param) == ("not_found", "model")
    assert server.model in caught.value.message


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        (["a", LONG], "invalid_input", "input[1]"),
        ([[5], [99_999]], "invalid_input", "input[1][0]"),
        ([], "invalid_input", "input"),
        (["a"] * 2049, "too_many_sequences", "input"),
    ],
)
def test_invalid_input_is_unprocessable(
    server: Server, client: openai.OpenAI, value: Any, code: str, param: str
) -> None:
    """The error has the location in the request."""
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.embeddings.create(model=server.model, input=value)
    assert (code_of(caught.value), caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"


def test_unknown_field_is_unprocessable(server: Server, client: openai.OpenAI) -> None:
    """The error names the field."""
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.embeddings.create(model=server.model, input="a", extra_body={"shorten": True})
    assert (code_of(caught.value), caught.value.param) == ("invalid_input", "shorten")


def test_client_reads_errors_for_invalid_json_and_wrong_method(client: openai.OpenAI) -> None:
    """400 and 405 are in OpenAI's format."""
    with pytest.raises(openai.BadRequestError) as bad:
        client.post("/embeddings", cast_to=object, content=b"{")
    assert code_of(bad.value) == "bad_request"
    with pytest.raises(openai.APIStatusError) as method:
        client.get("/embeddings", cast_to=object)
    assert (method.value.status_code, code_of(method.value)) == (405, "method_not_allowed")


def test_wrong_key_is_an_authentication_error(start_server: StartServer) -> None:
    """A valid key is accepted."""
    with start_server(FNET_API_KEYS="right") as server:
        with connect(server, api_key="wrong") as wrong:
            for ask in (lambda: wrong.embeddings.create(model=server.model, input="a"), wrong.models.list):
                with pytest.raises(openai.AuthenticationError) as caught:
                    ask()
                assert code_of(caught.value) == "unauthorized"
        with connect(server, api_key="right") as right:
            assert len(right.embeddings.create(model=server.model, input="a").data) == 1


def test_client_retries_while_the_server_loads(start_server: StartServer) -> None:
    """The client retries after 503 as Retry-After says."""
    with start_server(ready=False) as server:
        with connect(server) as impatient:
            for ask in (lambda: impatient.embeddings.create(model=server.model, input="a"), impatient.models.list):
                with pytest.raises(openai.InternalServerError) as caught:
                    ask()
                assert (caught.value.status_code, code_of(caught.value)) == (503, "not_ready")
                assert caught.value.type == "server_error"
                assert int(caught.value.response.headers["retry-after"]) >= 1
        with connect(server, max_retries=100) as patient:
            answer = patient.embeddings.create(model=server.model, input=TEXTS)
        assert np.array_equal(rows(answer), encoded(server, texts=TEXTS))


def test_client_retries_with_a_full_queue_and_during_shutdown(
    start_server: StartServer, make_preset: Callable[..., Path]
) -> None:
    """Client retries with a full queue and during shutdown."""
    slow = make_preset("slow_en", layers=6, hidden_dim=128, positions=512)
    maximum = 96 * 512
    seen: list[tuple[float, int, float]] = []

    def note(response: httpx.Response) -> None:
        seen.append((time.monotonic(), response.status_code, float(response.headers.get("retry-after", 0))))

    def fill(server: Server) -> httpx.Response:
        body = {"token_ids": [[7 + number] * 512 for number in range(96)], "outputs": ["pooled_output"]}
        return httpx.post(f"{server.url}/v1/encode", json=body, timeout=TIMEOUT)

    def is_full(server: Server) -> bool:
        return "fnet_queue_requests 1.0" in httpx.get(f"{server.url}/metrics", timeout=TIMEOUT).text

    half: Any = [[200 + number] * 512 for number in range(48)]
    with (
        ThreadPoolExecutor() as threads,
        start_server(slow, FNET_MAX_QUEUE_TOKENS=str(maximum), FNET_MAX_BATCH_TOKENS="512") as server,
    ):
        # === Full ===
        filling = threads.submit(fill, server)
        server.wait_until(lambda: is_full(server))
        with connect(server) as impatient, pytest.raises(openai.RateLimitError) as caught:
            impatient.embeddings.create(model=server.model, input=half)
        assert (code_of(caught.value), caught.value.type) == ("overloaded", "rate_limit_error")
        hooked = httpx.Client(event_hooks={"response": [note]}, timeout=TIMEOUT)
        with connect(server, max_retries=10, http_client=hooked) as patient:
            answer = patient.embeddings.create(model=server.model, input=half)
        assert len(answer.data) == 48
        statuses = [status for _, status, _ in seen]
        assert statuses == [429] * (len(seen) - 1) + [200]
        assert len(seen) > 1
        for (before, _, wait), (after, _, _) in pairwise(seen):
            assert wait >= 1
            assert after - before >= wait
        assert filling.result(TIMEOUT).status_code == 200

        # === Draining ===
        filling = threads.submit(fill, server)
        server.wait_until(lambda: is_full(server))
        with connect(server) as late:
            server.terminate()
            ready = f"{server.url}/health/ready"
            server.wait_until(lambda: bool(httpx.get(ready, timeout=TIMEOUT).json()["state"] == "draining"))
            with pytest.raises(openai.InternalServerError) as ended:
                late.embeddings.create(model=server.model, input="a")
            assert (ended.value.status_code, code_of(ended.value)) == (503, "draining")
        assert filling.result(TIMEOUT).status_code == 200


# === LangChain ===


def test_langchain_gets_vectors_bit_identical_to_the_native_protocol(server: Server) -> None:
    """Texts are sent as texts, because OpenAI's tokenizer is for OpenAI's models."""
    langchain = OpenAIEmbeddings(
        model=server.model,
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
        max_retries=0,
        chunk_size=3,
    )
    expected = encoded(server, texts=TEXTS)
    assert np.array_equal(np.array(langchain.embed_documents(TEXTS), np.float32), expected)
    assert np.array_equal(np.array(langchain.embed_query(TEXTS[0]), np.float32), expected[0])

    async def asynchronously() -> Array:
        return np.array(await langchain.aembed_documents(TEXTS), np.float32)

    assert np.array_equal(asyncio.run(asynchronously()), expected)


def test_langchain_raises_the_errors_of_openai(server: Server) -> None:
    """Langchain raises the errors of openai."""
    langchain = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    with pytest.raises(openai.NotFoundError):
        langchain.embed_query("a")
