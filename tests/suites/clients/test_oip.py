"""The Open Inference Protocol with tritonclient and kserve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import kserve
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.support.bundled import VOCABULARY
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.suites.clients.conftest import Server

T = TypeVar("T")

StartServer = Callable[..., AbstractContextManager["Server"]]
Array = npt.NDArray[np.float32]

HIDDEN = 32
OUTPUTS = ["sequence_output", "pooled_output", "mean_output"]
IDS = [[5, 6, 7], [8, 9, 10]]
SEGMENTS = [[0, 1, 2], [2, 1, 0]]
TEXTS = ["a small dog", "", "interest rates rose again last week", "Zürich 東京 🦆"]
LONG = " ".join(["word"] * 100)


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    """Triton's client of the server."""
    with triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=TIMEOUT) as client:
        yield client


def tensor(name: str, values: Any, *, binary: bool = True, client: Any = triton) -> Any:
    """Return a Triton input."""
    array = np.array(values, np.object_) if isinstance(values, list) else values
    made = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def encoded(server: Server, **request: Any) -> dict[str, Array]:
    """Return the outputs of `/v1/encode`; sequence outputs only for equal lengths."""
    answer = httpx.post(f"{server.url}/v1/encode", json={**request, "outputs": OUTPUTS}, timeout=TIMEOUT)
    assert answer.status_code == 200
    actual = answer.json()
    names = OUTPUTS if len({len(item) for item in actual["sequence_output"]}) == 1 else OUTPUTS[1:]
    return {name: np.array(actual[name], np.float32) for name in names}


def outputs(result: Any) -> dict[str, Array]:
    """Return all outputs of a Triton response."""
    return {item["name"]: result.as_numpy(item["name"]) for item in result.get_response()["outputs"]}


def assert_same(actual: dict[str, Array], expected: dict[str, Array], names: list[str]) -> None:
    """Check that outputs are bit-identical."""
    assert list(actual) == names
    for name in names:
        assert actual[name].dtype == np.float32
        assert actual[name].shape == expected[name].shape
        assert np.array_equal(actual[name], expected[name])


# === tritonclient ===


def test_server_and_model_metadata(server: Server, client: Any) -> None:
    """Liveness, readiness, and metadata with and without a version."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(server.model)
    assert client.is_model_ready(server.model, "7")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready(server.model, "8")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata(server.model)
    assert described == client.get_model_metadata(server.model, "7")
    assert (described["name"], described["versions"]) == (server.model, ["7"])
    assert {item["name"] for item in described["inputs"]} == {"token_ids", "segment_ids", "texts"}
    shapes = {item["name"]: item["shape"] for item in described["outputs"]}
    result = outputs(client.infer(server.model, [tensor("token_ids", np.array(IDS, np.int64))]))
    assert set(shapes) == set(result)
    for name, array in result.items():
        assert all(reported in (-1, is_) for reported, is_ in zip(shapes[name], array.shape, strict=True))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("binary", [True, False])
def test_ids_in_all_formats(server: Server, client: Any, dtype: type[np.signedinteger[Any]], binary: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """All outputs are bit-identical to those of the native protocol."""
    expected = encoded(server, token_ids=IDS, segment_ids=SEGMENTS)
    inputs = [
        tensor("token_ids", np.array(IDS, dtype), binary=binary),
        tensor("segment_ids", np.array(SEGMENTS, np.int32), binary=not binary),
    ]
    assert_same(outputs(client.infer(server.model, inputs)), expected, OUTPUTS)
    for item in (True, False):
        requested = [triton.InferRequestedOutput(name, binary_data=item) for name in reversed(OUTPUTS)]
        result = client.infer(server.model, inputs, model_version="7", outputs=requested)
        assert_same(outputs(result), expected, OUTPUTS[::-1])
        assert all(("data" in output) is not item for output in result.get_response()["outputs"])


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_texts_in_all_formats(server: Server, client: Any, binary: bool, column: bool) -> None:  # noqa: FBT001 - parameters of the table
    """Object arrays of strings and bytes, with one or two dimensions."""
    expected = encoded(server, texts=TEXTS)
    for values in (TEXTS, [text.encode() for text in TEXTS]):
        array = np.array(values, np.object_)
        made = tensor("texts", array.reshape(-1, 1) if column else array, binary=binary)
        assert_same(outputs(client.infer(server.model, [made])), expected, OUTPUTS[1:])


def test_mixed_outputs_and_parameters(server: Server, client: Any) -> None:
    """The response has the request id, model and version, and the parameters are respected."""
    requested = [
        triton.InferRequestedOutput("mean_output", binary_data=False),
        triton.InferRequestedOutput("sequence_output", binary_data=True),
        triton.InferRequestedOutput("pooled_output", binary_data=True),
    ]
    parameters = {"normalize": True, "padding": 12, "truncate": True}
    made = tensor("texts", [*TEXTS, LONG])
    result = client.infer(server.model, [made], outputs=requested, request_id="mine-1", parameters=parameters)
    expected = encoded(server, texts=[*TEXTS, LONG], **parameters)
    assert expected["sequence_output"].shape == (5, 12, HIDDEN)
    assert_same(outputs(result), expected, ["mean_output", "sequence_output", "pooled_output"])
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine-1", server.model, "7")


@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
def test_compression(server: Server, client: Any, request_: str | None, response: str | None) -> None:
    """Requests may be compressed; an answer need not be, even where it may."""
    result = client.infer(
        server.model,
        [tensor("token_ids", np.array(IDS, np.int32))],
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )
    assert_same(outputs(result), encoded(server, token_ids=IDS), OUTPUTS)


def test_large_response(server: Server, client: Any) -> None:
    """The client joins a streamed response."""
    ids = np.random.default_rng(0).integers(0, 11_000, (200, 64))
    expected = encoded(server, token_ids=ids.tolist())
    for binary in (True, False):
        requested = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
        assert_same(
            outputs(client.infer(server.model, [tensor("token_ids", ids)], outputs=requested)), expected, OUTPUTS
        )


def test_timeout_is_in_microseconds(server: Server, client: Any) -> None:
    """A microsecond times out; a minute and no timeout do not."""
    made = [tensor("texts", TEXTS)]
    for timeout in (None, 0, 60_000_000):
        assert outputs(client.infer(server.model, made, timeout=timeout))
    with pytest.raises(InferenceServerException) as caught:
        client.infer(server.model, made, timeout=1)
    assert caught.value.status() == "504"
    assert "timed out" in caught.value.message()


@pytest.mark.parametrize(
    ("inputs", "options", "status", "message"),
    [
        ([("token_ids", np.array([[1.5]], np.float32))], {}, "422", "inputs[0].datatype: "),
        ([("token_ids", np.array([1, 2]))], {}, "422", "inputs[0] token_ids: shape is [2]"),
        ([("token_ids", np.array([[1, VOCABULARY]]))], {}, "422", f"inputs[0] token_ids[0][1]: token id {VOCABULARY}"),
        ([("token_ids", np.array([[2**32]]))], {}, "422", "inputs[0] token_ids[0][0]: token id 4294967296"),
        ([("token_ids", np.zeros((0, 3), np.int64))], {}, "422", "inputs[0] token_ids: contains no sequence"),
        ([("token_ids", np.zeros((2049, 1), np.int64))], {}, "422", "2049 sequences exceed the maximum of"),
        ([("token_ids", np.array(IDS)), ("texts", TEXTS)], {}, "422", "inputs: expected exactly one of"),
        ([("token_ids", np.array(IDS)), ("segment_ids", np.array([[0]]))], {}, "422", "inputs[1] segment_ids: shape"),
        ([("input_ids", np.array(IDS))], {}, "422", "inputs[0].name: "),
        ([("texts", [b"\xff"])], {}, "422", "inputs[0] texts[0]: is not UTF-8"),
        ([("texts", [LONG])], {}, "422", "inputs[0] texts[0]: 102 tokens exceed"),
        ([("texts", TEXTS)], {"priority": 3}, "422", "parameters.priority: "),
        ([("texts", TEXTS)], {"sequence_id": 3, "sequence_start": True}, "422", "parameters.sequence_"),
        ([("texts", TEXTS)], {"parameters": {"top_k": 3}}, "422", "parameters.top_k: unknown field"),
        ([("texts", TEXTS)], {"model_version": "8"}, "404", "unknown version 8 of model tiny_en"),
        ([("texts", TEXTS)], {"headers": {"X-Request-Timeout": "soon"}}, "400", "header X-Request-Timeout: "),
    ],
)
def test_errors_are_readable(
    server: Server, client: Any, inputs: list[tuple[str, Any]], options: dict[str, Any], status: str, message: str
) -> None:
    """The client's own exception carries status and message."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(server.model, [tensor(*item) for item in inputs], **options)
    assert caught.value.status() == status
    assert caught.value.message().startswith(message)


def test_errors_of_outputs_are_readable(server: Server, client: Any) -> None:
    """Classes, shared memory, and a shape that is none."""
    shared = triton.InferRequestedOutput("pooled_output")
    shared.set_shared_memory("region", 128)
    for requested, message in (
        (triton.InferRequestedOutput("pooled_output", class_count=3), "outputs[0].parameters.classification: unknown"),
        (triton.InferRequestedOutput("logits"), "outputs[0].name: "),
        (triton.InferRequestedOutput("sequence_output"), "outputs[0] sequence_output: the texts have 2 to "),
        (shared, "outputs[0].parameters.shared_memory_"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(server.model, [tensor("texts", TEXTS)], outputs=[requested])
        assert caught.value.status() == "422"
        assert caught.value.message().startswith(message)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: client.infer("other", [tensor("texts", TEXTS)]),
        lambda: client.get_model_metadata("other"),
        lambda: client.get_model_config(server.model),
        lambda: client.get_inference_statistics(server.model),
    )
    for call in calls:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "404"
        assert caught.value.message().startswith("unknown ")


def test_api_keys_and_large_bodies(start_server: StartServer) -> None:
    """401 and 413 raise the client's exception; a valid key is accepted."""
    with (
        start_server(FNET_API_KEYS="first", FNET_MAX_BODY_BYTES="2000") as server,
        triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=TIMEOUT) as client,
    ):
        key = {"Authorization": "Bearer first"}
        made = [tensor("texts", TEXTS)]
        with pytest.raises(InferenceServerException) as caught:
            client.infer(server.model, made)
        assert caught.value.status() == "401"
        assert caught.value.message().startswith("missing or invalid API key")
        assert outputs(client.infer(server.model, made, headers=dict(key)))
        with pytest.raises(InferenceServerException) as caught:
            client.infer(server.model, [tensor("texts", ["a" * 3000])], headers=dict(key))
        assert caught.value.status() == "413"
        assert "2000 bytes" in caught.value.message()


def test_concurrent_requests(server: Server) -> None:
    """Each `async_infer` call gets the outputs of a separate request."""
    address = server.url.removeprefix("http://")
    with triton.InferenceServerClient(address, concurrency=4, network_timeout=TIMEOUT) as client:
        texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
        sent = [client.async_infer(server.model, [tensor("texts", [text])]) for text in texts]
        for text, request in zip(texts, sent, strict=True):
            expected = encoded(server, texts=[text])
            assert_same(outputs(request.get_result()), expected, OUTPUTS[1:])


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine with a timeout."""
    return asyncio.run(asyncio.wait_for(work, TIMEOUT))


def test_asynchronous_client(server: Server) -> None:
    """Triton's aiohttp client gets the same outputs and errors."""

    async def use() -> None:
        async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(server.model)
            assert (await client.get_model_metadata(server.model))["name"] == server.model
            for compression in (None, "gzip", "deflate"):
                result = await client.infer(
                    server.model,
                    [tensor("texts", TEXTS)],
                    request_compression_algorithm=compression,
                    timeout=60_000_000,
                )
                assert_same(outputs(result), encoded(server, texts=TEXTS), OUTPUTS[1:])
            with pytest.raises(InferenceServerException) as caught:
                await client.infer(server.model, [tensor("texts", [LONG])])
            assert caught.value.message().startswith("inputs[0] texts[0]: 102 tokens exceed")

    run(use())


# === kserve ===


def use_kserve(server: Server, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run a function with KServe's client."""

    async def use() -> T:
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0, timeout=TIMEOUT)) as client:
            return await work(client)

    return run(use())


def infer(server: Server, inputs: list[Any], **options: Any) -> Any:
    """Send a request with KServe's client."""
    request = kserve.InferRequest(server.model, inputs, **options)
    return use_kserve(server, lambda client: client.infer(server.url, request, model_name=server.model))


def arrays(answer: Any) -> dict[str, Array]:
    """Return all outputs of a KServe response."""
    return {item.name: item.as_numpy() for item in answer.outputs}


def test_kserve_reads_metadata(server: Server) -> None:
    """The server is live and ready and has no other model."""
    assert use_kserve(server, lambda client: client.is_server_live(server.url)) is True
    assert use_kserve(server, lambda client: client.is_server_ready(server.url)) is True
    assert use_kserve(server, lambda client: client.is_model_ready(server.url, server.model)) is True
    assert use_kserve(server, lambda client: client.is_model_ready(server.url, "other")) is False


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_kserve_infers(server: Server, binary: bool, answered: bool) -> None:  # noqa: FBT001 - parameters of the table
    """Ids and texts, as bytes and as JSON."""
    options = {"parameters": {"binary_data_output": answered}, "request_id": "mine-2"}
    inputs = [
        tensor("token_ids", np.array(IDS, np.int64), binary=binary, client=kserve),
        tensor("segment_ids", np.array(SEGMENTS, np.int32), binary=binary, client=kserve),
    ]
    answer = infer(server, inputs, **options)
    assert (answer.id, answer.model_name) == ("mine-2", server.model)
    assert_same(arrays(answer), encoded(server, token_ids=IDS, segment_ids=SEGMENTS), OUTPUTS)
    answer = infer(server, [tensor("texts", TEXTS, binary=binary, client=kserve)], **options)
    assert_same(arrays(answer), encoded(server, texts=TEXTS), OUTPUTS[1:])
    requested = [RequestedOutput("pooled_output", {"binary_data": not answered})]
    inputs = [tensor("texts", TEXTS, binary=binary, client=kserve)]
    answer = infer(server, inputs, request_outputs=requested, **options)
    assert_same(arrays(answer), encoded(server, texts=TEXTS), ["pooled_output"])


def test_kserve_sends_plain_lists(server: Server) -> None:
    """As in its documentation: data as nested lists, no arrays at all; and a request that is a dictionary."""
    inputs = [kserve.InferInput("token_ids", [2, 3], "INT32", data=IDS)]
    assert_same(arrays(infer(server, inputs)), encoded(server, token_ids=IDS), OUTPUTS)
    request = {"inputs": [{"name": "texts", "shape": [4], "datatype": "BYTES", "data": TEXTS}]}
    answer = use_kserve(server, lambda client: client.infer(server.url, request, model_name=server.model))
    assert_same(arrays(answer), encoded(server, texts=TEXTS), OUTPUTS[1:])


def test_errors_are_readable_in_kserve(server: Server) -> None:
    """Its exception has the message, not a whole document."""
    with pytest.raises(httpx.HTTPStatusError) as caught:
        infer(server, [kserve.InferInput("token_ids", [1, 1], "INT32", data=[[VOCABULARY]])])
    assert caught.value.response.status_code == 422
    assert str(caught.value).startswith(
        f"inputs[0] token_ids[0][0]: token id {VOCABULARY} is outside [0, {VOCABULARY}), '422"
    )
