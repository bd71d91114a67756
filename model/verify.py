"""Whether a preset is whole: its files, its shapes, its vocabulary, and what its network computes.

A preset may tell of itself, in the block `fnet_service` of `metadata.json`: `sha256`, the digest of every file by its
name, and `golden`, a sequence with the leading components of its outputs. `fingerprint` makes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.architecture import Architecture
from model.arrays import Float32s
from model.encoder import NonFiniteOutputError, PackedEncoder, Tokens
from model.errors import PresetError
from model.presets.files import file_digest, preset_files
from model.presets.preset import CARD_FILE, Preset, read_preset, service_block
from model.presets.weights import Weights, read_weights, weights_digest
from model.reference import encode_one
from model.selftest import FLOAT32_TOLERANCE
from model.tokenizer import FNetTokenizer

# These tell of the others, or are for people.
_UNRECORDED = ("metadata.json", CARD_FILE)
_GOLDEN_LENGTH = 16
_COMPONENTS = 16
_SEED = 20210509


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it was.
        finding: What was found, in a few words.
        faults: What is wrong, a line each; none where all is right.
    """

    name: str
    finding: str
    faults: tuple[str, ...] = ()


def verify(directory: Path, name: str | None = None) -> Iterator[Check]:
    """Look a preset over, from the cheapest to the dearest check; what cannot be looked at after a fault is left out.

    Args:
        directory: The preset directory.
        name: What to call it, as for `read_preset`.
    """
    files, check = _try("files", lambda: _check_files(directory))
    yield check
    preset, check = _try("description", lambda: _check_description(directory, name))
    yield check
    if preset is None:
        return
    if preset.has_tokenizer:
        yield _try("tokenizer", lambda: _check_tokenizer(preset))[1]
    weights, check = _try("weights", lambda: _check_weights(preset))
    yield check
    if weights is None:
        return
    yield _try("network", lambda: _check_network(preset.architecture, weights))[1]
    if files is not None and "golden" in files:
        yield _try("golden row", lambda: _check_golden(preset.architecture, weights, files["golden"]))[1]


def fingerprint(directory: Path) -> dict[str, Any]:
    """Return `sha256` and `golden` of a preset, as they are kept in the block `fnet_service` of its metadata.

    Raises:
        PresetError: The preset is damaged.
    """
    preset = read_preset(directory)
    architecture = preset.architecture
    random = np.random.default_rng(_SEED)
    length = min(_GOLDEN_LENGTH, architecture.max_sequence_length)
    token_ids = random.integers(0, architecture.vocabulary_size, length, np.int32)
    segment_ids = random.integers(0, architecture.num_segments, length, np.int32)
    outputs = _outputs(architecture, read_weights(directory, architecture), token_ids, segment_ids)
    golden: dict[str, Any] = {"token_ids": token_ids.tolist(), "segment_ids": segment_ids.tolist()}
    for output, values in outputs.items():
        golden[output] = [float(f"{value:.7g}") for value in values[:_COMPONENTS]]
    digests = {file: file_digest(directory / file) for file in preset_files(directory) if file not in _UNRECORDED}
    return {"sha256": digests, "golden": golden}


def _try(name: str, look: Callable[[], tuple[Any, Check]]) -> tuple[Any, Check]:
    try:
        return look()
    except PresetError as error:
        return None, Check(name, "at fault", (str(error),))
    except OSError as error:
        return None, Check(name, "at fault", (f"{error.filename}: {error.strerror}",))


def _check_files(directory: Path) -> tuple[dict[str, Any], Check]:
    block = service_block(directory)
    recorded = block.get("sha256", {})
    if not isinstance(recorded, dict):
        raise PresetError("metadata.json: fnet_service.sha256 is no object of files and digests")
    here = preset_files(directory)
    faults = []
    for file, digest in recorded.items():
        if file not in here:
            faults.append(f"{file}: missing, although metadata.json tells its digest")
        elif (found := file_digest(directory / file)) != digest:
            faults.append(f"{file}: SHA-256 is {found}, metadata.json tells {digest}")
    told = f"{len(recorded)} with a digest in metadata.json" if recorded else "no digests in metadata.json"
    return block, Check("files", f"{len(here)}, {told}", tuple(faults))


def _check_description(directory: Path, name: str | None) -> tuple[Preset, Check]:
    preset = read_preset(directory, name)
    architecture = preset.architecture
    finding = (
        f"{architecture.num_layers} layers of {architecture.hidden_dim}, {architecture.parameter_count:,} parameters"
    )
    return preset, Check("description", finding)


def _check_tokenizer(preset: Preset) -> tuple[None, Check]:
    size = FNetTokenizer.from_preset(preset).vocabulary_size()
    return None, Check("tokenizer", f"{size:,} tokens for a vocabulary of {preset.architecture.vocabulary_size:,}")


def _check_weights(preset: Preset) -> tuple[Weights, Check]:
    weights = read_weights(preset.directory, preset.architecture)
    return weights, Check("weights", f"{len(weights)} variables, SHA-256 {weights_digest(preset.directory)}")


def _check_network(architecture: Architecture, weights: Weights) -> tuple[None, Check]:
    """Run two sequences in one row of the packed encoder, and compare them with plain NumPy."""
    random = np.random.default_rng(_SEED)
    encoder = PackedEncoder(architecture, weights)
    longest = encoder.row_lengths[-1]
    encoder.retain_row_lengths([longest])
    encoder.compile()
    lengths = [min(length, architecture.max_sequence_length) for length in (3, longest // 2 - 4)]
    sequences = [
        Tokens(
            random.integers(0, architecture.vocabulary_size, length, np.int32),
            random.integers(0, architecture.num_segments, length, np.int32),
        )
        for length in lengths
    ]
    worst = 0.0
    try:
        for tokens, encoding in zip(sequences, encoder.encode(sequences), strict=True):
            sequence_output, pooled_output = encode_one(architecture, weights, *tokens)
            worst = max(worst, _error(encoding.sequence_output, sequence_output))
            worst = max(worst, _error(encoding.pooled_output, pooled_output))
    except NonFiniteOutputError as error:
        raise PresetError(f"model.weights.h5: {error}") from error
    finding = f"a row of {longest} tokens, within {worst:.1e} of plain NumPy"
    faults = () if worst <= FLOAT32_TOLERANCE else (f"the packed encoder is {worst:.1e} from plain NumPy",)
    return None, Check("network", finding, faults)


def _check_golden(architecture: Architecture, weights: Weights, golden: Any) -> tuple[None, Check]:
    ids = [
        _numbers(golden, field, np.int32, below)
        for field, below in (("token_ids", architecture.vocabulary_size), ("segment_ids", architecture.num_segments))
    ]
    if len(ids[0]) != len(ids[1]) or len(ids[0]) > architecture.max_sequence_length:
        raise PresetError("metadata.json: fnet_service.golden: its ids are no sequence for this network")
    faults = []
    worst = 0.0
    for output, values in _outputs(architecture, weights, *ids).items():
        expected = _numbers(golden, output, np.float32, None)
        if len(expected) > len(values):
            raise PresetError(f"metadata.json: fnet_service.golden.{output} is longer than hidden_dim")
        error = _error(values[: len(expected)], expected)
        worst = max(worst, error)
        if not error <= FLOAT32_TOLERANCE:
            faults.append(f"model.weights.h5: {output} of the golden row is {error:.1e} from what metadata.json tells")
    return None, Check("golden row", f"within {worst:.1e} of metadata.json", tuple(faults))


def _numbers(golden: Any, field: str, dtype: type, below: int | None) -> npt.NDArray[Any]:
    """Return a recorded list of numbers, those of ids within their range."""
    values = golden.get(field) if isinstance(golden, Mapping) else None
    kinds = (int,) if below is not None else (int, float)
    if not (isinstance(values, list) and values and all(type(value) in kinds for value in values)):
        raise PresetError(f"metadata.json: fnet_service.golden.{field} is no list of numbers")
    if below is not None and not all(0 <= value < below for value in values):
        raise PresetError(f"metadata.json: fnet_service.golden.{field} holds an id outside [0, {below})")
    return np.asarray(values, dtype)


def _outputs(
    architecture: Architecture, weights: Weights, token_ids: npt.NDArray[np.int32], segment_ids: npt.NDArray[np.int32]
) -> dict[str, Float32s]:
    sequence_output, pooled_output = encode_one(architecture, weights, token_ids, segment_ids)
    return {"pooled_output": pooled_output, "mean_output": sequence_output.mean(axis=0)}


def _error(ours: Float32s, theirs: Float32s) -> float:
    """Return the largest difference, relative to the outputs' scale where that is above 1."""
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
