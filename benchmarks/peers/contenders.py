"""The networks of every library, each with one way to call it: ids in, two float32 vectors a text out.

All FNets have the same weights, made once by transformers and handed on through a preset directory. What a call gives
back is for each text the mean of its token outputs and its pooled output, so that all contenders do all of the work.
Libraries are imported where they are used: the suite imports this module without having them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.peers.workloads import Axis, equal_batches, one_by_count, sorted_batches
from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.backends.base import BackendName

Dtype = Literal["float32", "bfloat16"]
Network = Literal["FNet", "BERT"]
# Ids of texts to `[texts, 2, h]` float32: mean and pooled output.
Encode = Callable[[Sequence[Int32s]], Float32s]
Batching = Callable[[Sequence[int]], list[list[int]]]

# Backends and dtypes of this project's encoder: another pair is another line.
OURS: tuple[tuple[BackendName, Dtype], ...] = (
    ("jax", "float32"),
    ("jax", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)

_SEED = 20210509
# Texts of a padded contender's part of a large workload: each takes the same time, whatever its length.
_PART = 32


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to encode.

    Attributes:
        name: What people see.
        network: What it computes; contenders of one network agree.
        dtype: Of its matrix products.
        make: Builds it.
        exact: Whether its outputs are those of the text alone; padding an FNet changes them.
        part: Texts that it encodes of a workload that has more, its time being scaled up; all by default.
        products: The axes that it transforms by matrix products rather than by an FFT.
    """

    name: str
    network: Network
    dtype: Dtype
    make: Callable[[], Encode]
    exact: bool = True
    part: int | None = None
    products: tuple[Axis, ...] = ()


def contenders(architecture: Architecture, preset: Path, hugging_face: Path) -> list[Contender]:
    """Return every contender, none of them built yet.

    Args:
        architecture: Of all the networks.
        preset: Directory of the FNets' weights, as keras-hub reads it.
        hugging_face: Directory of the same weights, as transformers reads them.
    """
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    longest = architecture.max_sequence_length
    return [
        *(
            Contender(
                f"ours {backend} {dtype}",
                "FNet",
                dtype,
                partial(ours, preset, backend, dtype),
            )
            for backend, dtype in OURS
        ),
        Contender("keras-hub FNet float32, equal lengths", "FNet", "float32", partial(keras_hub_fnet, preset)),
        Contender(
            f"keras-hub FNet float32, padded to {longest}",
            "FNet",
            "float32",
            partial(keras_hub_fnet, preset, longest),
            exact=False,
            part=_PART,
        ),
        *(
            Contender(
                f"transformers FNet {dtype}, equal lengths", "FNet", dtype, partial(torch_fnet, hugging_face, dtype)
            )
            for dtype in dtypes
        ),
        *(
            Contender(
                f"transformers BERT {dtype}, sorted and padded", "BERT", dtype, partial(torch_bert, architecture, dtype)
            )
            for dtype in dtypes
        ),
        *(
            Contender(
                f"OpenVINO BERT bfloat16, {how}", "BERT", "bfloat16", partial(openvino_bert, architecture, batching)
            )
            for how, batching in (("sorted and padded", sorted_batches), ("equal lengths", equal_batches))
        ),
    ]


def write_weights(architecture: Architecture, preset: Path, hugging_face: Path) -> None:
    """Write one random FNet both as a keras-hub preset and as a Hugging Face checkpoint."""
    import torch  # noqa: PLC0415
    from transformers import FNetConfig, FNetModel  # noqa: PLC0415

    from model.backbone import FNetBackbone  # noqa: PLC0415
    from model.hugging_face import read_hugging_face  # noqa: PLC0415

    torch.manual_seed(_SEED)
    config = FNetConfig(
        vocab_size=architecture.vocabulary_size,
        hidden_size=architecture.hidden_dim,
        num_hidden_layers=architecture.num_layers,
        intermediate_size=architecture.intermediate_dim,
        max_position_embeddings=architecture.max_sequence_length,
        tpu_short_seq_length=architecture.max_sequence_length,
        type_vocab_size=architecture.num_segments,
    )
    FNetModel(config).save_pretrained(hugging_face)
    _, weights = read_hugging_face(hugging_face)
    backbone = FNetBackbone.from_architecture(architecture)
    backbone.assign_weights(weights)
    backbone.save_to_preset(preset)


def ours(preset: Path, backend: BackendName, dtype: Dtype) -> Encode:
    """Return this project's encoder, made ready as the service does it, self-test and all."""
    from model.backbone import FNetBackbone  # noqa: PLC0415
    from model.encoder import PackedEncoder, Tokens  # noqa: PLC0415
    from model.selftest import compile_and_verify  # noqa: PLC0415

    plain = FNetBackbone.from_preset(preset)
    encoder = PackedEncoder(plain.architecture, plain.named_weights(), dtype=dtype, backend=backend)
    compile_and_verify(encoder, lambda tokens: plain.encode_one(*tokens))

    def encode(texts: Sequence[Int32s]) -> Float32s:
        found = encoder.encode([Tokens(ids, np.zeros_like(ids)) for ids in texts])
        return np.stack([np.stack([each.mean_output, each.pooled_output]) for each in found])

    return encode


def keras_hub_fnet(preset: Path, padded_to: int | None = None) -> Encode:
    """Return keras-hub's backbone, compiled a program a shape: equal lengths, or padded as its preprocessor does."""
    import jax  # noqa: PLC0415
    from keras_hub.models import FNetBackbone  # noqa: PLC0415

    network = FNetBackbone.from_preset(str(preset), dtype="float32")
    values = [variable.value for variable in network.trainable_variables]
    rest = [variable.value for variable in network.non_trainable_variables]
    call = jax.jit(lambda values, rest, inputs: network.stateless_call(values, rest, inputs, training=False)[0])

    def run(ids: npt.NDArray[np.int64], _mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        whole = ids if padded_to is None else np.pad(ids, ((0, 0), (0, padded_to - ids.shape[1])))
        inputs = {"token_ids": whole.astype(np.int32), "segment_ids": np.zeros(whole.shape, np.int32)}
        outputs = call(values, rest, inputs)
        return np.asarray(outputs["sequence_output"]), np.asarray(outputs["pooled_output"])

    return in_batches(run, equal_batches if padded_to is None else one_by_count)


def torch_fnet(hugging_face: Path, dtype: Dtype) -> Encode:
    """Return transformers' FNet, in equal lengths."""
    import torch  # noqa: PLC0415
    from transformers import FNetModel  # noqa: PLC0415

    network = FNetModel.from_pretrained(hugging_face, dtype=getattr(torch, dtype)).eval()
    if dtype == "bfloat16":
        # torch has no Fourier transform of bfloat16: that alone goes through float32, its best case.
        for layer in network.encoder.layer:
            layer.fourier.self.fourier_transform = lambda x: torch.fft.fftn(x.float(), dim=(1, 2)).real.to(
                torch.bfloat16
            )

    def run(ids: npt.NDArray[np.int64], _mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        with torch.inference_mode():
            found = network(input_ids=torch.from_numpy(ids))
            return found.last_hidden_state.float().numpy(), found.pooler_output.float().numpy()

    return in_batches(run, equal_batches)


def torch_bert(architecture: Architecture, dtype: Dtype) -> Encode:
    """Return transformers' BERT of the same size with random weights, texts sorted by length and padded."""
    import torch  # noqa: PLC0415

    network = _bert(architecture).to(getattr(torch, dtype))

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        with torch.inference_mode():
            found = network(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            return found.last_hidden_state.float().numpy(), found.pooler_output.float().numpy()

    return in_batches(run, sorted_batches)


def openvino_bert(architecture: Architecture, batching: Batching) -> Encode:
    """Return the same BERT in OpenVINO, bfloat16."""
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415

    example = torch.ones(2, 8, dtype=torch.long)
    inputs = {"input_ids": example, "attention_mask": example}
    graph = openvino.convert_model(_bert(architecture), example_input=inputs)
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    network = openvino.Core().compile_model(graph, "CPU", hints)

    def run(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        found = network({"input_ids": ids, "attention_mask": mask})
        return found[0], found[1]

    return in_batches(run, batching)


def _bert(architecture: Architecture) -> Any:
    import torch  # noqa: PLC0415
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    torch.manual_seed(_SEED)
    config = BertConfig(
        vocab_size=architecture.vocabulary_size,
        hidden_size=architecture.hidden_dim,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=max(1, architecture.hidden_dim // 64),
        intermediate_size=architecture.intermediate_dim,
        max_position_embeddings=architecture.max_sequence_length,
    )
    return BertModel(config).eval()


def in_batches(run: Callable[[Any, Any], tuple[Any, Any]], batching: Batching) -> Encode:
    """Return an encoder that pads each batch to its longest text.

    Args:
        run: Takes ids and mask, `[batch, n]` int64, to token outputs `[batch, n or more, h]` and pooled `[batch, h]`.
        batching: Takes lengths to batches of indices.
    """

    def encode(texts: Sequence[Int32s]) -> Float32s:
        results: dict[int, Float32s] = {}
        for members in batching([len(ids) for ids in texts]):
            ids = np.zeros((len(members), max(len(texts[i]) for i in members)), np.int64)
            mask = np.zeros_like(ids)
            for row, member in enumerate(members):
                ids[row, : len(texts[member])] = texts[member]
                mask[row, : len(texts[member])] = 1
            tokens, pooled = run(ids, mask)
            for row, member in enumerate(members):
                results[member] = np.stack([tokens[row, : len(texts[member])].mean(axis=0), pooled[row]])
        return np.stack([results[index] for index in range(len(texts))])

    return encode


def least_cosine(found: Float32s, wanted: Float32s) -> float:
    """Return the least cosine between two contenders' vectors."""
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    return float(((found * wanted).sum(axis=-1) / norms).min())
