"""Integrity checks of a preset: files, shapes, vocabulary and outputs of the network.

The block `fnet_service` of `metadata.json` may hold reference values: `sha256`, the digest of every file by name, and
`golden`, a sequence with the leading components of its outputs. `fingerprint` computes both.
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
from model.encoder import NonFiniteOutputError, PackedEncoder, TokenSequence
from model.errors import PresetError
from model.presets.files import file_digest, preset_files
from model.presets.preset import CARD_FILE, Preset, read_preset, service_block
from model.presets.weights import Weights, read_weights, weights_digest
from model.reference import encode_one
from model.selftest import FLOAT32_TOLERANCE
from model.tokenizer import FNetTokenizer

# The metadata holds the digests, and people may edit the model card.
_UNRECORDED = ("metadata.json", CARD_FILE)
_GOLDEN_TOKENS = 16
_COMPONENTS = 16
_SEED = 20210509


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: Subject of the check.
        finding: Summary of the result.
        faults: One line per problem; empty if the check passed.
    """

    name: str
    finding: str
    faults: tuple[str, ...] = ()


def verify(directory: Path, name: str | None = None) -> Iterator[Check]:
    """Check a preset, cheapest check first; checks that depend on a failed one are skipped.

    Args:
        directory: The preset directory.
        name: Name of the preset, as for `read_preset`.
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
    """Return `sha256` and `golden` of a preset for the block `fnet_service` of its metadata.

    Raises:
        PresetError: The preset is damaged.
    """
    preset = read_preset(directory)
    architecture = preset.architecture
    random = np.random.default_rng(_SEED)
    length = min(_GOLDEN_TOKENS, architecture.max_sequence_length)
    token_ids = random.integers(0, architecture.vocabulary_size, length, np.int32)
    segment_ids = random.integers(0, architecture.num_segments, length, np.int32)
    outputs = _outputs(architecture, read_weights(directory, architecture), token_ids, segment_ids)
    golden: dict[str, Any] = {"token_ids": token_ids.tolist(), "segment_ids": segment_ids.tolist()}
    for output, values in outputs.items():
        golden[output] = [float(f"{value:.7g}") for value in values[:_COMPONENTS]]
    digests = {file: file_digest(directory / file) for file in preset_files(directory) if file not in _UNRECORDED}
    return {"sha256": digests, "golden": golden}


def _try(name: str, check: Callable[[], tuple[Any, Check]]) -> tuple[Any, Check]:
    try:
        return check()
    except PresetError as error:
        return None, Check(name, "failed", (str(error),))
    except OSError as error:
        return None, Check(name, "failed", (f"{error.filename}: {error.strerror}",))


def _check_files(directory: Path) -> tuple[dict[str, Any], Check]:
    block = service_block(directory)
    recorded = block.get("sha256", {})
    if not isinstance(recorded, dict):
        raise PresetError("metadata.json: fnet_service.sha256 is not an object of file names and digests")
    present = preset_files(directory)
    faults = []
    for file, digest in recorded.items():
        if file not in present:
            faults.append(f"{file}: missing, but metadata.json records its digest")
        elif (actual := file_digest(directory / file)) != digest:
            faults.append(f"{file}: SHA-256 is {actual}, expected {digest} by metadata.json")
    digests = f"{len(recorded)} with a digest in metadata.json" if recorded else "no digests in metadata.json"
    return block, Check("files", f"{len(present)}, {digests}", tuple(faults))


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
    """Run two sequences in one row of the packed encoder, and compare the outputs with the NumPy reference."""
    random = np.random.default_rng(_SEED)
    encoder = PackedEncoder(architecture, weights)
    longest = encoder.row_lengths[-1]
    encoder.retain_row_lengths([longest])
    encoder.compile()
    lengths = [min(length, architecture.max_sequence_length) for length in (3, longest // 2 - 4)]
    sequences = [
        TokenSequence(
            random.integers(0, architecture.vocabulary_size, length, np.int32),
            random.integers(0, architecture.num_segments, length, np.int32),
        )
        for length in lengths
    ]
    largest_error = 0.0
    try:
        for tokens, encoding in zip(sequences, encoder.encode(sequences), strict=True):
            sequence_output, pooled_output = encode_one(architecture, weights, *tokens)
            largest_error = max(largest_error, _error(encoding.sequence_output, sequence_output))
            largest_error = max(largest_error, _error(encoding.pooled_output, pooled_output))
    except NonFiniteOutputError as error:
        raise PresetError(f"model.weights.h5: {error}") from error
    finding = f"a row of {longest} tokens, within {largest_error:.1e} of the NumPy reference"
    faults = (
        ()
        if largest_error <= FLOAT32_TOLERANCE
        else (f"the packed encoder differs by {largest_error:.1e} from the NumPy reference",)
    )
    return None, Check("network", finding, faults)


def _check_golden(architecture: Architecture, weights: Weights, golden: Any) -> tuple[None, Check]:
    ids = [
        _numbers(golden, field, np.int32, below)
        for field, below in (("token_ids", architecture.vocabulary_size), ("segment_ids", architecture.num_segments))
    ]
    if len(ids[0]) != len(ids[1]) or len(ids[0]) > architecture.max_sequence_length:
        raise PresetError("metadata.json: fnet_service.golden: the ids are not a sequence of this network")
    faults = []
    largest_error = 0.0
    for output, values in _outputs(architecture, weights, *ids).items():
        expected = _numbers(golden, output, np.float32, None)
        if len(expected) > len(values):
            raise PresetError(f"metadata.json: fnet_service.golden.{output} is longer than hidden_dim")
        error = _error(values[: len(expected)], expected)
        largest_error = max(largest_error, error)
        if not error <= FLOAT32_TOLERANCE:
            faults.append(f"model.weights.h5: {output} of the golden row differs by {error:.1e} from metadata.json")
    return None, Check("golden row", f"within {largest_error:.1e} of metadata.json", tuple(faults))


def _numbers(golden: Any, field: str, dtype: type, below: int | None) -> npt.NDArray[Any]:
    """Return a recorded list of numbers; ids have to be in `[0, below)`."""
    values = golden.get(field) if isinstance(golden, Mapping) else None
    kinds = (int,) if below is not None else (int, float)
    if not (isinstance(values, list) and values and all(type(value) in kinds for value in values)):
        raise PresetError(f"metadata.json: fnet_service.golden.{field} is not a list of numbers")
    if below is not None and not all(0 <= value < below for value in values):
        raise PresetError(f"metadata.json: fnet_service.golden.{field} holds an id outside [0, {below})")
    return np.asarray(values, dtype)


def _outputs(
    architecture: Architecture, weights: Weights, token_ids: npt.NDArray[np.int32], segment_ids: npt.NDArray[np.int32]
) -> dict[str, Float32s]:
    sequence_output, pooled_output = encode_one(architecture, weights, token_ids, segment_ids)
    return {"pooled_output": pooled_output, "mean_output": sequence_output.mean(axis=0)}


def _error(actual: Float32s, expected: Float32s) -> float:
    """Return the largest difference, relative to the scale of the expected values where it is above 1."""
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))
