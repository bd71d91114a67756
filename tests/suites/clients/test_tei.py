"""The protocol of Text Embeddings Inference with huggingface_hub and llama-index."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

if TYPE_CHECKING:
    from tests.suites.clients.conftest import Server, StartServer

POSITIONS = 64
HIDDEN = 32
LONG = " ".join([*(["word"] * 60), "and", "other", *(["things"] * 60)])
TEXTS = ["a small dog", "Caf\xe9 \U0001f600"]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the offline mode of huggingface_hub, which tests set."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def client(server: Server) -> InferenceClient:
    """A huggingface_hub client for the root of the service."""
    return InferenceClient(model=server.url)


def native(server: Server, **request: Any) -> npt.NDArray[np.float32]:
    """Return the pooled outputs of `/v1/encode`."""
    response = httpx.post(f"{server.url}/v1/encode", json={"outputs": ["pooled_output"], **request}, timeout=60)
    return np.array(response.raise_for_status().json()["pooled_output"], np.float32)


def ids(server: Server, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens."""
    request = {"inputs": text, "add_special_tokens": False}
    response = httpx.post(f"{server.url}/tokenize", json=request, timeout=60).raise_for_status()
    return [token["id"] for token in response.json()[0]]


# === huggingface_hub ===


@pytest.mark.parametrize("path", ["", "/", "/embed"])
def test_hub_embeds_a_text(server: Server, path: str) -> None:
    """The vector is bit-identical to that of the native protocol, on both routes."""
    actual = InferenceClient(model=server.url + path).feature_extraction(TEXTS[0])
    assert actual.shape == (1, HIDDEN)
    assert actual.dtype == np.float32
    assert np.array_equal(actual, native(server, texts=TEXTS[:1], normalize=True))


def test_hub_embeds_texts(server: Server, client: InferenceClient) -> None:
    """Many texts at once, normalized or not."""
    assert np.array_equal(client.feature_extraction(TEXTS, normalize=False), native(server, texts=TEXTS))
    actual = client.feature_extraction(TEXTS, normalize=True)
    assert np.array_equal(actual, native(server, texts=TEXTS, normalize=True))


def test_hub_truncates_on_either_side(server: Server, client: InferenceClient) -> None:
    """Special tokens are kept."""
    words = ids(server, LONG)
    remaining = POSITIONS - 2
    cut: list[tuple[Literal["left", "right"] | None, list[int]]] = [
        ("right", words[:remaining]),
        ("left", words[-remaining:]),
        (None, words[:remaining]),
    ]
    for direction, expected in cut:
        actual = client.feature_extraction(LONG, truncate=True, truncation_direction=direction, normalize=False)
        assert np.array_equal(actual, native(server, token_ids=[4, *expected, 5]))


def test_hub_can_send_default_values(server: Server, client: InferenceClient) -> None:
    """All dimensions, as numbers."""
    actual = client.feature_extraction(TEXTS, dimensions=HIDDEN, encoding_format="float")
    assert np.array_equal(actual, native(server, texts=TEXTS, normalize=True))


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({}, "inputs"),
        ({"truncate": True, "prompt_name": "query"}, "prompt_name"),
        ({"truncate": True, "dimensions": HIDDEN - 1}, "dimensions"),
        ({"truncate": True, "encoding_format": "base64"}, "encoding_format"),
    ],
)
def test_hub_raises_readable_errors(client: InferenceClient, options: dict[str, Any], location: str) -> None:
    """The error has the status and the location in the request."""
    with pytest.raises(HfHubHTTPError) as caught:
        client.feature_extraction(LONG, **options)
    assert caught.value.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    document = caught.value.response.json()
    assert document["error_type"] == "Validation"
    assert document["error"].startswith(f"{location}: ")
    assert location in str(caught.value)


def test_asynchronous_hub_client(server: Server) -> None:
    """The asynchronous client gets equal vectors."""

    async def call() -> npt.NDArray[np.float32]:
        async with AsyncInferenceClient(model=server.url) as client:
            actual: npt.NDArray[np.float32] = await client.feature_extraction(TEXTS)
            return actual

    assert np.array_equal(asyncio.run(call()), native(server, texts=TEXTS, normalize=True))


# === llama-index ===


def test_llama_index_embeds_queries_and_documents(server: Server) -> None:
    """Single texts, batches, and the asynchronous methods."""
    model = TextEmbeddingsInference(
        model_name=server.model,
        base_url=server.url,
        query_instruction="",
        text_instruction="",
        embed_batch_size=2,
    )
    texts = [*TEXTS, "a third"]
    expected = native(server, texts=texts, normalize=True)
    single = np.array(model.get_query_embedding(texts[0]), np.float32)
    assert np.array_equal(single, expected[0])
    many = np.array(model.get_text_embedding_batch(texts), np.float32)
    assert np.array_equal(many, expected)
    later = asyncio.run(model.aget_text_embedding_batch(texts))
    assert np.array_equal(np.array(later, np.float32), expected)


def test_llama_index_truncates_by_default(server: Server) -> None:
    """Llama index truncates by default."""
    model = TextEmbeddingsInference(
        model_name=server.model, base_url=server.url, query_instruction="", text_instruction=""
    )
    actual = np.array(model.get_text_embedding(LONG), np.float32)
    assert np.array_equal(actual[None], native(server, texts=[LONG], truncate=True, normalize=True))


# === Both, with a key ===


def test_api_keys_of_both_clients(start_server: StartServer) -> None:
    """Requests with a key succeed, and those without are rejected."""
    with start_server(FNET_API_KEYS="secret") as server:
        assert InferenceClient(model=server.url, token="secret").feature_extraction("a").shape == (1, HIDDEN)  # noqa: S106
        with pytest.raises(HfHubHTTPError) as caught:
            InferenceClient(model=server.url, token="wrong").feature_extraction("a")  # noqa: S106 - wrong on purpose
        assert caught.value.response.status_code == httpx.codes.UNAUTHORIZED
        model = TextEmbeddingsInference(
            model_name=server.model,
            base_url=server.url,
            query_instruction="",
            text_instruction="",
            auth_token="secret",  # noqa: S106 - the test's own
        )
        assert len(model.get_text_embedding("a")) == HIDDEN
