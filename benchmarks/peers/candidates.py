"""Candidates: networks of every library with one interface, from token ids to two float32 vectors per text.

All FNets of a group have the same weights. A call returns the mean of the token outputs and the pooled output of each
text, so that all candidates do the same work. Libraries are imported where they are used, because the test suite
imports this module without them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.peers.openvino_int8 import (
    DYNAMIC_QUANTIZATION,
    WEIGHTS_ONLY,
    NotQuantizedError,
    compile_graph,
    quantize_weights,
)
from benchmarks.peers.previous import start_previous
from benchmarks.peers.workloads import equal_batches, input_order_batches, sorted_batches
from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.dtypes import BackendName, Dtype
from model.encoder import Output, PackedEncoder, TokenSequence
from model.selftest import compile_and_verify

Network = Literal["FNet", "BERT"]
Batching = Callable[[Sequence[int]], list[list[int]]]

# Backends and dtypes of this project's encoder.
OURS: tuple[tuple[BackendName, Dtype], ...] = (
    ("jax", "float32"),
    ("jax", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
# Backends and dtypes of the checkout that `--before` names.
BEFORE: tuple[tuple[BackendName, Dtype], ...] = (("jax", "float32"), ("jax", "bfloat16"), ("openvino", "bfloat16"))

STREAMS = "one batch per core"
# Dtype of the dense products, dtype of the rest, and whether batches run in parallel.
_OPENVINO_BERTS: tuple[tuple[Dtype, Dtype, bool], ...] = (
    ("bfloat16", "bfloat16", False),
    ("bfloat16", "bfloat16", True),
    ("int8", "float32", False),
    ("int8", "bfloat16", False),
    ("int8", "bfloat16", True),
)

# Lowest cosine similarity of a mean or pooled vector to the float32 reference.
MIN_COSINE: dict[Dtype, float] = {"float32": 0.99999, "bfloat16": 0.99, "int8": 0.99}

_SEED = 20210509
_OUTPUTS: frozenset[Output] = frozenset(("mean_output", "pooled_output"))
# Texts that a candidate with one padded length encodes of a large workload: every text takes the same time.
_PART_TEXTS = 32
# Texts of a batch that one core encodes: several batches balance the load, and less is padded.
_STREAM_TEXTS = 8
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class Encoded(NamedTuple):
    """Result of one call.

    Attributes:
        vectors: `[texts, 2, h]` float32: mean and pooled output.
        seconds: Duration of the call.
    """

    vectors: Float32s
    seconds: float


# Ids of each text to their vectors.
Encode = Callable[[Sequence[Int32s]], Encoded]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to encode.

    Attributes:
        label: The project or library.
        backend: The library that computes.
        dtype: Operands of its dense products.
        make: Builds it.
        variant: How it batches, and what else distinguishes it.
        network: What it computes; candidates of one network agree.
        exact: Whether outputs are those of each text alone; padding changes an FNet's.
        part: Number of texts that it encodes of a larger workload, its time being scaled up; all texts by default.
    """

    label: str
    backend: str
    dtype: Dtype
    make: Callable[[], Encode]
    variant: str = ""
    network: Network = "FNet"
    exact: bool = True
    part: int | None = None

    @property
    def name(self) -> str:
        """Unique name."""
        return ", ".join(filter(None, (f"{self.label} {self.backend} {self.dtype}", self.variant)))


def own_candidates(preset: Path) -> list[Candidate]:
    """Return this project's encoder with every backend and dtype, not built yet."""
    return [Candidate("ours", backend, dtype, partial(ours, preset, backend, dtype)) for backend, dtype in OURS]


def previous_candidates(preset: Path, checkout: Path) -> list[Candidate]:
    """Return the encoder of another checkout of this project, not built yet."""
    return [
        Candidate("before", backend, dtype, partial(previous, checkout, preset, backend, dtype))
        for backend, dtype in BEFORE
    ]


def keras_hub_candidate(preset: Path) -> Candidate:
    """Return keras-hub's FNet on batches of equal lengths."""
    return Candidate("keras-hub FNet", "jax", "float32", partial(keras_hub_fnet, preset), "equal lengths")


def peer_candidates(architecture: Architecture, preset: Path, hugging_face: Path) -> list[Candidate]:
    """Return the networks of other libraries, not built yet.

    Args:
        architecture: Architecture of all networks.
        preset: Directory of the FNet weights in keras-hub's form.
        hugging_face: Directory of the same weights in transformers' form.
    """
    length = architecture.max_sequence_length
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    padded = "sorted and padded"
    return [
        keras_hub_candidate(preset),
        Candidate(
            "keras-hub FNet",
            "jax",
            "float32",
            partial(keras_hub_fnet, preset, length),
            f"padded to {length}",
            exact=False,
            part=_PART_TEXTS,
        ),
        *(
            Candidate("transformers FNet", "torch", dtype, partial(torch_fnet, hugging_face, dtype), "equal lengths")
            for dtype in dtypes
        ),
        *(
            Candidate("BERT", "torch", dtype, partial(torch_bert, architecture, dtype), padded, "BERT")
            for dtype in dtypes
        ),
        *(
            Candidate(
                "BERT",
                "openvino",
                dtype,
                partial(openvino_bert, architecture, rest, int8=dtype == "int8", streams=streams),
                ", ".join([padded, *[f"rest {rest}"] * (dtype == "int8"), *[STREAMS] * streams]),
                "BERT",
            )
            for dtype, rest, streams in _OPENVINO_BERTS
        ),
    ]


def timed(encode: Callable[[Sequence[Int32s]], Float32s]) -> Encode:
    """Return an encoder that measures its own duration."""

    def run(texts: Sequence[Int32s]) -> Encoded:
        started = time.perf_counter()
        vectors = encode(texts)
        return Encoded(vectors, time.perf_counter() - started)

    return run


def ours(preset: Path, backend: BackendName, dtype: Dtype) -> Encode:
    """Return this project's encoder, compiled and self-tested as in the service."""
    from model.backbone import FNetBackbone  # noqa: PLC0415

    backbone = FNetBackbone.from_preset(preset)
    encoder = PackedEncoder(backbone.architecture, backbone.named_weights(), dtype=dtype, backend=backend)
    compile_and_verify(encoder, lambda tokens: backbone.encode_one(*tokens))

    def encode(texts: Sequence[Int32s]) -> Float32s:
        encodings = encoder.encode([TokenSequence(ids, np.zeros_like(ids)) for ids in texts], _OUTPUTS)
        return np.stack([np.stack([one.mean_output, one.pooled_output]) for one in encodings])

    return timed(encode)


def previous(checkout: Path, preset: Path, backend: BackendName, dtype: Dtype) -> Encode:
    """Return the encoder of another checkout, which runs and measures in a separate process."""
    request = start_previous(checkout, preset, backend, dtype)
    return lambda texts: Encoded(*request(texts))


def keras_hub_fnet(preset: Path, padded_length: int | None = None) -> Encode:
    """Return keras-hub's backbone, compiled once per shape, on equal lengths or padded as its preprocessor pads."""
    import jax  # noqa: PLC0415
    from keras_hub.models import FNetBackbone  # noqa: PLC0415

    network = FNetBackbone.from_preset(str(preset), dtype="float32")
    values = [variable.value for variable in network.trainable_variables]
    rest = [variable.value for variable in network.non_trainable_variables]
    call = jax.jit(lambda values, rest, inputs: network.stateless_call(values, rest, inputs, training=False)[0])

    def run(ids: npt.NDArray[np.int64], _mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        padded = ids if padded_length is None else np.pad(ids, ((0, 0), (0, padded_length - ids.shape[1])))
        inputs = {"token_ids": padded.astype(np.int32), "segment_ids": np.zeros(padded.shape, np.int32)}
        outputs = call(values, rest, inputs)
        return np.asarray(outputs["sequence_output"]), np.asarray(outputs["pooled_output"])

    return in_batches(run, equal_batches if padded_length is None else input_order_batches)


def torch_fnet(hugging_face: Path, dtype: Dtype) -> Encode:
    """Return transformers' FNet on batches of equal lengths."""
    from transformers import FNetModel  # noqa: PLC0415

    torch = _torch()
    network = FNetModel.from_pretrained(hugging_face, dtype=getattr(torch, dtype)).eval()
    if dtype == "bfloat16":
        # torch has no Fourier transform of bfloat16, so that only the transform runs in float32.
        for layer in network.encoder.layer:
            layer.fourier.self.fourier_transform = lambda x: torch.fft.fftn(x.float(), dim=(1, 2)).real.to(
                torch.bfloat16
            )

    def run(ids: npt.NDArray[np.int64], _mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        with torch.inference_mode():
            outputs = network(input_ids=torch.from_numpy(ids))
            return outputs.last_hidden_state.float().numpy(), outputs.pooler_output.float().numpy()

    return in_batches(run, equal_batches)


def torch_bert(architecture: Architecture, dtype: Dtype) -> Encode:
    """Return transformers' BERT of the same size with random weights, on batches that are sorted and padded."""
    torch = _torch()
    network = _bert(architecture).to(getattr(torch, dtype))

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        with torch.inference_mode():
            outputs = network(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            return outputs.last_hidden_state.float().numpy(), outputs.pooler_output.float().numpy()

    return in_batches(run, sorted_batches)


def openvino_bert(architecture: Architecture, precision: Dtype, *, int8: bool, streams: bool) -> Encode:
    """Return the same BERT in OpenVINO, on batches that are sorted and padded.

    Args:
        architecture: Its size.
        precision: Precision of everything, or of all but the dense products with `int8`.
        int8: Whether dense products run in int8, weights with one scale per output row, activations at run time.
        streams: Whether smaller batches run in parallel on one core each, as OpenVINO documents for throughput;
            otherwise each batch uses all cores, as it documents for latency.

    Raises:
        NotQuantizedError: The library does not compute in int8 with these sizes on this processor.
    """
    graph = _bert_graph(architecture)
    options = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision]}
    if int8:
        _quantize_verified(graph, options, architecture)
        options |= DYNAMIC_QUANTIZATION
    if streams:
        options |= {"PERFORMANCE_HINT": "THROUGHPUT"}
    network = compile_graph(graph, options)
    local = threading.local()

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        if not hasattr(local, "request"):
            local.request = network.create_infer_request()
        outputs = local.request.infer({"input_ids": ids, "attention_mask": mask})
        return outputs[0], outputs[1]

    if not streams:
        return in_batches(run, sorted_batches)
    workers = int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    return in_batches(run, partial(sorted_batches, max_texts=_STREAM_TEXTS), workers)


def _quantize_verified(graph: Any, options: dict[str, str], architecture: Architecture) -> None:
    """Quantize a graph's weights, and verify that activations are quantized as well and outputs stay similar."""
    length = min(64, architecture.max_sequence_length)
    ids = np.random.default_rng(_SEED).integers(0, architecture.vocabulary_size, (4, length))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = compile_graph(graph, {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]
    quantize_weights(graph)
    # Equal weights and equal routines give equal bits: a difference shows that another routine computes.
    weights_only = compile_graph(graph, options, WEIGHTS_ONLY)(inputs)[0]
    outputs = compile_graph(graph, options, DYNAMIC_QUANTIZATION)(inputs)[0]
    difference = float(np.abs(outputs - weights_only).max())
    if difference < 1e-3:  # noqa: PLR2004 - rounding of float32 sums is below
        raise NotQuantizedError(f"OpenVINO did not quantize the activations: outputs differ by {difference:.1e}")
    cosine = min_cosine(outputs, expected)
    if not cosine >= MIN_COSINE["int8"]:
        raise NotQuantizedError(f"int8 outputs have a lowest cosine of {cosine:.4f} to those of float32")


def _bert_graph(architecture: Architecture) -> Any:
    import openvino  # noqa: PLC0415

    example = _torch().ones(2, 8, dtype=_torch().long)
    inputs = {"input_ids": example, "attention_mask": example}
    return openvino.convert_model(_bert(architecture), example_input=inputs)


def _bert(architecture: Architecture) -> Any:
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    _torch().manual_seed(_SEED)
    config = BertConfig(
        vocab_size=architecture.vocabulary_size,
        hidden_size=architecture.hidden_dim,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=max(1, architecture.hidden_dim // 64),
        intermediate_size=architecture.intermediate_dim,
        max_position_embeddings=architecture.max_sequence_length,
    )
    return BertModel(config).eval()


def _torch() -> Any:
    """Return torch with one thread per core, as its documentation recommends for inference."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch


def in_batches(run: Callable[[Any, Any], tuple[Any, Any]], batching: Batching, workers: int = 1) -> Encode:
    """Return an encoder that pads each batch to its longest text.

    Args:
        run: Takes ids and mask, `[batch, n]` int64, to token outputs `[batch, n or more, h]` and pooled `[batch, h]`.
        batching: Takes lengths to batches of indices.
        workers: Number of batches that run at the same time.
    """
    pool = ThreadPoolExecutor(workers)

    def run_batch(texts: Sequence[Int32s]) -> list[Float32s]:
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        tokens, pooled = run(ids, mask)
        return [np.stack([tokens[row, : len(text)].mean(axis=0), pooled[row]]) for row, text in enumerate(texts)]

    def encode(texts: Sequence[Int32s]) -> Float32s:
        batches = batching([len(ids) for ids in texts])
        inputs = [[texts[member] for member in members] for members in batches]
        results: dict[int, Float32s] = {}
        outputs = map(run_batch, inputs) if workers == 1 else pool.map(run_batch, inputs)
        for members, vectors in zip(batches, outputs, strict=True):
            results |= zip(members, vectors, strict=True)
        return np.stack([results[index] for index in range(len(texts))])

    return timed(encode)


def min_cosine(vectors: Float32s, expected: Float32s) -> float:
    """Return the lowest cosine similarity between two candidates' vectors."""
    norms = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((vectors * expected).sum(axis=-1) / norms).min())
