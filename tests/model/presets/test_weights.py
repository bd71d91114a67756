"""Weight files of every layout have equal arrays, and damaged or hostile files are rejected with one line."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from model.architecture import Architecture
from model.conversion.hugging_face import read_hugging_face
from model.errors import PresetError
from model.presets.weights import (
    SHARD_INDEX_FILE,
    WEIGHTS_FILE,
    read_weights,
    weights_digest,
    write_weights,
)

Weights = dict[str, npt.NDArray[np.float32]]
MakeWeights = Callable[[Architecture], Weights]
WriteJson = Callable[[Path, Any], None]

# Paths of the variables of an FNetBackbone in Keras 3, as an independent specification.
KERAS_PATHS = {
    "token_embedding/embeddings": "reversible_embedding/vars/0",
    "position_embedding/embeddings": "position_embedding/vars/0",
    "segment_embedding/embeddings": "embedding/vars/0",
    "embeddings_layer_norm/gamma": "layer_normalization/vars/0",
    "embeddings_layer_norm/beta": "layer_normalization/vars/1",
    "embedding_projection/kernel": "dense/vars/0",
    "embedding_projection/bias": "dense/vars/1",
    "layers/0/mixing_layer_norm/gamma": "f_net_encoder/_mixing_layer_norm/vars/0",
    "layers/0/mixing_layer_norm/beta": "f_net_encoder/_mixing_layer_norm/vars/1",
    "layers/0/intermediate_dense/kernel": "f_net_encoder/_intermediate_dense/vars/0",
    "layers/0/intermediate_dense/bias": "f_net_encoder/_intermediate_dense/vars/1",
    "layers/0/output_dense/kernel": "f_net_encoder/_output_dense/vars/0",
    "layers/0/output_dense/bias": "f_net_encoder/_output_dense/vars/1",
    "layers/0/output_layer_norm/gamma": "f_net_encoder/_output_layer_norm/vars/0",
    "layers/0/output_layer_norm/beta": "f_net_encoder/_output_layer_norm/vars/1",
    "layers/1/mixing_layer_norm/gamma": "f_net_encoder_1/_mixing_layer_norm/vars/0",
    "layers/1/mixing_layer_norm/beta": "f_net_encoder_1/_mixing_layer_norm/vars/1",
    "layers/1/intermediate_dense/kernel": "f_net_encoder_1/_intermediate_dense/vars/0",
    "layers/1/intermediate_dense/bias": "f_net_encoder_1/_intermediate_dense/vars/1",
    "layers/1/output_dense/kernel": "f_net_encoder_1/_output_dense/vars/0",
    "layers/1/output_dense/bias": "f_net_encoder_1/_output_dense/vars/1",
    "layers/1/output_layer_norm/gamma": "f_net_encoder_1/_output_layer_norm/vars/0",
    "layers/1/output_layer_norm/beta": "f_net_encoder_1/_output_layer_norm/vars/1",
    "pooled_dense/kernel": "dense_1/vars/0",
    "pooled_dense/bias": "dense_1/vars/1",
}
OLDER_SPELLING = KERAS_PATHS | {
    "token_embedding/embeddings": "embedding/vars/0",
    "segment_embedding/embeddings": "embedding_1/vars/0",
}
KERNEL = "layers/dense/vars/0"


@pytest.fixture
def weights(tiny: Architecture, make_weights: MakeWeights) -> Weights:
    """The tiny network's weights."""
    return make_weights(tiny)


@pytest.fixture
def stored(tmp_path: Path, weights: Weights) -> Path:
    """A directory with the tiny network's weights in one file."""
    write_weights(tmp_path / WEIGHTS_FILE, weights)
    return tmp_path


def write_file(
    path: Path, weights: Mapping[str, npt.NDArray[Any]], paths: Mapping[str, str] = KERAS_PATHS, root: str = "layers"
) -> None:
    """Write variables in the format of Keras, without the package."""
    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            data = file.create_dataset(f"{root}/{paths[name]}", data=array)
            if array.dtype == ml_dtypes.bfloat16:
                data.attrs["dtype"] = "bfloat16"


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare two sets of weights bitwise."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == np.float32
        assert np.array_equal(actual[name], array), name


def refusal(call: Callable[[], object], file: str) -> str:
    """Return the one-line message of the PresetError that `call` raises, which starts with the file name."""
    with pytest.raises(PresetError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{file}: ")
    return message


# --- Keras files ---


def test_weights_round_trip(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """Weights are read with equal bits, in the order of the forward pass."""
    assert_same(read_weights(stored, tiny), weights)


def test_file_has_the_layout_of_keras(stored: Path, weights: Weights) -> None:
    """The file contains every variable at its Keras 3 path, and nothing else."""
    actual: list[str] = []
    with h5py.File(stored / WEIGHTS_FILE) as file:
        file.visititems(lambda name, item: actual.append(name) if isinstance(item, h5py.Dataset) else None)
        for name, path in KERAS_PATHS.items():
            assert np.array_equal(file[f"layers/{path}"], weights[name])
    assert sorted(actual) == sorted(f"layers/{path}" for path in KERAS_PATHS.values())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(tmp_path: Path, tiny: Architecture, weights: Weights, dtype: Any) -> None:
    """Half and double precision are converted to float32."""
    write_weights(tmp_path / WEIGHTS_FILE, weights, dtype)
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in weights.items()}
    assert_same(read_weights(tmp_path, tiny), expected)


def test_bfloat16_is_recognized_by_its_attribute(tmp_path: Path, tiny: Architecture, weights: Weights) -> None:
    """Keras stores bfloat16 as two opaque bytes and an attribute."""
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    write_file(tmp_path / WEIGHTS_FILE, narrow)
    assert_same(read_weights(tmp_path, tiny), {name: array.astype(np.float32) for name, array in narrow.items()})


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.parametrize("paths", [KERAS_PATHS, OLDER_SPELLING], ids=["reversible_embedding", "embedding_1"])
def test_older_paths_are_read(
    tmp_path: Path, tiny: Architecture, weights: Weights, root: str, paths: dict[str, str]
) -> None:
    """Releases differ in the names of the root and of the token embedding."""
    write_file(tmp_path / WEIGHTS_FILE, weights, paths, root)
    assert_same(read_weights(tmp_path, tiny), weights)


def test_shards_are_read(tmp_path: Path, tiny: Architecture, weights: Weights) -> None:
    """A large model has several files, which an index lists by layer."""
    names = list(weights)
    half = len(names) // 2
    write_file(tmp_path / "model_00000.weights.h5", {name: weights[name] for name in names[:half]})
    write_file(tmp_path / "model_00001.weights.h5", {name: weights[name] for name in names[half:]})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {
            "/layers/dense/vars": "model_00000.weights.h5",
            "/layers/reversible_embedding/vars": ["model_00000.weights.h5"],
            "/layers/dense_1/vars": ["model_00000.weights.h5", "model_00001.weights.h5"],
        },
    }
    (tmp_path / SHARD_INDEX_FILE).write_text(json.dumps(index))
    assert_same(read_weights(tmp_path, tiny), weights)


def test_other_arrays_are_ignored(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """Optimizer state and task heads are ignored."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["optimizer/vars/0"] = 3
        file["layers/dense_2/vars/0"] = np.zeros((5, 5))
        file.create_group("layers/dropout/vars")
    assert_same(read_weights(stored, tiny), weights)


def test_network_without_layers_is_read(tmp_path: Path, tiny: Architecture, make_weights: MakeWeights) -> None:
    """A network with zero layers has embeddings and the pooler."""
    flat = dataclasses.replace(tiny, num_layers=0)
    write_weights(tmp_path / WEIGHTS_FILE, make_weights(flat))
    assert_same(read_weights(tmp_path, flat), make_weights(flat))


def test_digest_covers_the_files(stored: Path, weights: Weights) -> None:
    """Equal bytes have equal digests, shards are digested in order, and one changed byte changes the digest."""
    first = weights_digest(stored)
    assert len(first) == 64
    data = (stored / WEIGHTS_FILE).read_bytes()
    (stored / WEIGHTS_FILE).unlink()
    (stored / SHARD_INDEX_FILE).write_text(json.dumps({"weight_map": {"b": "b.weights.h5", "a": "a.weights.h5"}}))
    (stored / "a.weights.h5").write_bytes(data[:1000])
    (stored / "b.weights.h5").write_bytes(data[1000:])
    assert weights_digest(stored) == first
    (stored / "b.weights.h5").write_bytes(data[1000:-1] + bytes([data[-1] ^ 1]))
    assert weights_digest(stored) != first


# --- Damage ---


def test_missing_weights_are_reported(tmp_path: Path, tiny: Architecture) -> None:
    """The error contains the names of file and index."""
    message = refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)
    assert "missing" in message
    assert SHARD_INDEX_FILE in message
    refusal(lambda: weights_digest(tmp_path), WEIGHTS_FILE)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncated_file_is_rejected(stored: Path, tiny: Architecture, share: float) -> None:
    """A file that is truncated anywhere is reported as damaged."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    (stored / WEIGHTS_FILE).write_bytes(data[: int(len(data) * share)])
    assert "damaged" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize(
    "content",
    [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n", np.random.default_rng(0).bytes(5000), pickle.dumps({"weights": [1, 2]})],
    ids=["empty", "text", "signature", "random", "pickle"],
)
def test_another_kind_of_file_is_rejected(tmp_path: Path, tiny: Architecture, content: bytes) -> None:
    """A file that is not HDF5 is not opened as another format, such as pickle."""
    (tmp_path / WEIGHTS_FILE).write_bytes(content)
    assert "damaged" in refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)


def test_pickle_is_never_executed(tmp_path: Path, tiny: Architecture) -> None:
    """A file with a pickle does not run code."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / WEIGHTS_FILE).write_bytes(pickle.dumps(Trap()))
    refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)
    assert not (tmp_path / "executed").exists()


def test_changed_bytes_raise_only_preset_errors(stored: Path, tiny: Architecture) -> None:
    """Randomly changed bytes raise no error except PresetError."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    random = np.random.default_rng(2)
    refusals: list[str] = []
    for _ in range(200):
        damaged = bytearray(data)
        for offset in random.integers(0, len(data), 3):
            damaged[offset] = random.integers(256)
        (stored / WEIGHTS_FILE).write_bytes(damaged)
        try:
            actual = read_weights(stored, tiny)
        except PresetError as error:
            refusals.append(str(error))
        else:
            assert {name: array.shape for name, array in actual.items()} == tiny.variable_shapes()
    assert len(refusals) > 30
    assert all(message.startswith(f"{WEIGHTS_FILE}: ") for message in refusals)
    assert all(len(message.splitlines()) == 1 for message in refusals)


def test_names_that_are_not_utf8_are_rejected(stored: Path, tiny: Architecture) -> None:
    """A group name that is not UTF-8 is reported as damage."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    (stored / WEIGHTS_FILE).write_bytes(data.replace(b"reversible_embedding", b"reversible_\xff\xfe\xfd\xfc\xfbding"))
    refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize("name", KERAS_PATHS)
def test_missing_variable_is_reported(stored: Path, tiny: Architecture, name: str) -> None:
    """Each variable is required; the error contains its path and its name."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        del file[f"layers/{KERAS_PATHS[name]}"]
    message = refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)
    assert f"variable layers/{KERAS_PATHS[name]} ({name}) is missing" in message


def test_more_layers_than_configured_are_rejected(stored: Path, tiny: Architecture) -> None:
    """A configuration with fewer layers than the file is of another network."""
    fewer = dataclasses.replace(tiny, num_layers=tiny.num_layers - 1)
    message = refusal(lambda: read_weights(stored, fewer), WEIGHTS_FILE)
    assert f"num_layers in config.json is {fewer.num_layers}" in message


def test_file_for_another_network_is_rejected(stored: Path, tiny: Architecture) -> None:
    """The error for another hidden size contains both shapes."""
    message = refusal(lambda: read_weights(stored, dataclasses.replace(tiny, hidden_dim=13)), WEIGHTS_FILE)
    assert "has shape (40, 12), expected (40, 13) by config.json" in message


def replace(directory: Path, make: Callable[[h5py.Group], object]) -> None:
    """Replace one variable."""
    with h5py.File(directory / WEIGHTS_FILE, "a") as file:
        del file[KERNEL]
        make(file["layers/dense/vars"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((12, 13), np.float32), "shape"),
        (np.zeros((12, 12, 1), np.float32), "shape"),
        (np.float32(0), "shape"),
        (h5py.Empty("f4"), "shape"),
        (np.zeros((12, 12), np.int32), "int32"),
        (np.zeros((12, 12), np.uint8), "uint8"),
        (np.zeros((12, 12), np.bool_), "bool"),
        (np.zeros((12, 12), np.complex64), "complex64"),
        (np.full((12, 12), b"1.0"), "S3"),
        (np.zeros((12, 12), [("a", np.float32)]), "'a'"),
        (np.full((12, 12), np.nan, np.float32), "non-finite"),
        (np.full((12, 12), np.inf, np.float16), "non-finite"),
        (np.full((12, 12), -np.inf, np.float32), "non-finite"),
        (np.full((12, 12), 1e300), "non-finite"),
    ],
    ids=repr,
)
def test_array_that_does_not_fit_is_rejected(stored: Path, tiny: Architecture, data: Any, reason: str) -> None:
    """Shape, dtype and values of each variable are checked."""
    replace(stored, lambda group: group.create_dataset("0", data=data))
    message = refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)
    assert KERNEL in message
    assert reason in message


def test_one_non_finite_value_is_rejected(stored: Path, tiny: Architecture) -> None:
    """A single NaN is an error."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file[KERNEL][3, 4] = np.nan
    assert "non-finite" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize("mark", [["bfloat16", "bfloat16"], 7, "float8", h5py.Empty("f4")], ids=repr)
def test_invalid_bfloat16_attribute_is_rejected(stored: Path, tiny: Architecture, mark: Any) -> None:
    """Two opaque bytes are bfloat16 only with the exact attribute."""

    def make(group: h5py.Group) -> None:
        data = group.create_dataset("0", data=np.zeros((12, 12), ml_dtypes.bfloat16))
        data.attrs["dtype"] = mark

    replace(stored, make)
    refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_links_are_not_followed(stored: Path, tiny: Architecture, weights: Weights, tmp_path: Path) -> None:
    """Soft and external links are rejected, even if they refer to valid data."""
    write_file(tmp_path / "elsewhere.h5", weights)
    for link in (h5py.SoftLink("/layers/dense_1/vars/0"), h5py.ExternalLink("elsewhere.h5", f"/{KERNEL}")):
        with h5py.File(stored / WEIGHTS_FILE, "a") as file:
            del file[KERNEL]
            file[KERNEL] = link
        assert "link" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_link_with_a_line_break_in_its_name_stays_one_line(stored: Path, tiny: Architecture) -> None:
    """Names from the file are quoted in errors."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["layers/first\nsecond"] = h5py.SoftLink("/layers")
    assert "first\\nsecond" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_data_outside_the_file_is_not_read(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """An external dataset, whose bytes are in another file, is rejected."""
    (stored / "raw").write_bytes(weights["embedding_projection/kernel"].tobytes())
    replace(
        stored, lambda group: group.create_dataset("0", (12, 12), np.float32, external=[(str(stored / "raw"), 0, 576)])
    )
    assert "outside" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_virtual_dataset_is_not_read(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """A virtual dataset, which maps other files, is rejected."""
    write_file(stored / "elsewhere.h5", weights)
    layout = h5py.VirtualLayout((12, 12), np.float32)
    layout[:] = h5py.VirtualSource(str(stored / "elsewhere.h5"), KERNEL, (12, 12))
    replace(stored, lambda group: group.create_virtual_dataset("0", layout))
    assert "outside" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_group_within_itself_is_rejected(stored: Path, tiny: Architecture) -> None:
    """A loop of hard links is an error."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["layers/dense/again"] = file["layers"]
    assert "linked twice" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_groups_that_multiply_are_rejected(stored: Path, tiny: Architecture) -> None:
    """Thirty links at each of seven levels would give 20 billion paths."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        group = file.create_group("many")
        for _ in range(7):
            inner = group.create_group("0")
            for link in range(1, 30):
                group[str(link)] = inner
            group = inner
    assert "linked twice" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_deep_nesting_is_rejected(stored: Path, tiny: Architecture) -> None:
    """A thousand nested groups are an error."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file.create_group("/".join("x" * 1000))
    assert "nested more than 8 levels deep" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"weight_map": 7}',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 7}}',
        b"[" * 100_000,
        b'{"weight_map": {}}' + b" " * (1 << 20),
    ],
    ids=lambda content: repr(content[:30]),
)
def test_damaged_index_is_rejected(tmp_path: Path, tiny: Architecture, content: bytes) -> None:
    """An index that is not JSON, or has no map of names, is rejected."""
    (tmp_path / SHARD_INDEX_FILE).write_bytes(content)
    refusal(lambda: read_weights(tmp_path, tiny), SHARD_INDEX_FILE)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.weights.h5",
        "/etc/x.weights.h5",
        "sub/x.weights.h5",
        "..",
        "",
        ".weights.h5",
        "x.h5",
        "x.pkl",
        "x\n.weights.h5",
        "x\0.weights.h5",
        "x" * 5000 + ".weights.h5",
        ["model_00000.weights.h5", "../x.weights.h5"],
        [["model_00000.weights.h5"]],
        None,
    ],
    ids=lambda shard: repr(shard)[:30],
)
def test_shard_is_a_plain_file_name(stored: Path, tiny: Architecture, weights: Weights, shard: Any) -> None:
    """An index cannot refer to files outside the preset directory, or of another format."""
    inner = stored / "preset"
    inner.mkdir()
    write_file(inner / "model_00000.weights.h5", weights)
    write_file(stored / "x.weights.h5", weights)
    (inner / SHARD_INDEX_FILE).write_text(json.dumps({"weight_map": {"/layers/dense/vars": shard}}))
    refusal(lambda: read_weights(inner, tiny), SHARD_INDEX_FILE)


def test_missing_shard_is_reported(tmp_path: Path, tiny: Architecture) -> None:
    """Every shard of the index is required."""
    (tmp_path / SHARD_INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "model_00000.weights.h5"}}))
    assert "missing" in refusal(lambda: read_weights(tmp_path, tiny), "model_00000.weights.h5")


# --- Hugging Face ---

HUGGING_FACE_NAMES = {
    "token_embedding/embeddings": "embeddings.word_embeddings.weight",
    "position_embedding/embeddings": "embeddings.position_embeddings.weight",
    "segment_embedding/embeddings": "embeddings.token_type_embeddings.weight",
    "embeddings_layer_norm/gamma": "embeddings.LayerNorm.weight",
    "embeddings_layer_norm/beta": "embeddings.LayerNorm.bias",
    "embedding_projection/kernel": "embeddings.projection.weight",
    "embedding_projection/bias": "embeddings.projection.bias",
    "pooled_dense/kernel": "pooler.dense.weight",
    "pooled_dense/bias": "pooler.dense.bias",
} | {
    f"layers/{index}/{keras_name}": f"encoder.layer.{index}.{tensor_name}"
    for index in (0, 1)
    for keras_name, tensor_name in {
        "mixing_layer_norm/gamma": "fourier.output.LayerNorm.weight",
        "mixing_layer_norm/beta": "fourier.output.LayerNorm.bias",
        "intermediate_dense/kernel": "intermediate.dense.weight",
        "intermediate_dense/bias": "intermediate.dense.bias",
        "output_dense/kernel": "output.dense.weight",
        "output_dense/bias": "output.dense.bias",
        "output_layer_norm/gamma": "output.LayerNorm.weight",
        "output_layer_norm/beta": "output.LayerNorm.bias",
    }.items()
}
HUGGING_FACE_CONFIG = {
    "model_type": "fnet",
    "vocab_size": 40,
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "intermediate_size": 20,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 24,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-12,
}


def tensors_of(weights: Weights, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return the weights with the names and transposed kernels of transformers."""
    return {
        prefix + HUGGING_FACE_NAMES[name]: np.ascontiguousarray(array.T if name.endswith("kernel") else array)
        for name, array in weights.items()
    }


@pytest.fixture
def hugging_face(tmp_path: Path, weights: Weights, write_json: WriteJson) -> Path:
    """A checkpoint of the tiny network in the format of transformers."""
    write_json(tmp_path / "config.json", HUGGING_FACE_CONFIG)
    save_file(tensors_of(weights), tmp_path / "model.safetensors")
    return tmp_path


def test_hugging_face_checkpoint_is_read(hugging_face: Path, tiny: Architecture, weights: Weights) -> None:
    """Names and transposed kernels are converted."""
    architecture, actual = read_hugging_face(hugging_face)
    assert architecture == tiny
    assert_same(actual, weights)


def test_heads_of_a_checkpoint_are_ignored(hugging_face: Path, weights: Weights) -> None:
    """A prefix, position ids and pre-training heads are ignored."""
    head: dict[str, npt.NDArray[Any]] = {
        "fnet.embeddings.position_ids": np.arange(24)[None],
        "cls.predictions.bias": np.zeros(40, np.float32),
        "cls.predictions.transform.dense.weight": np.zeros((12, 12), np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 12), np.float32),
    }
    save_file(tensors_of(weights, "fnet.") | head, hugging_face / "model.safetensors")
    assert_same(read_hugging_face(hugging_face)[1], weights)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_checkpoint_becomes_float32(hugging_face: Path, weights: Weights, dtype: Any) -> None:
    """Half-precision tensors are converted to float32."""
    narrow = {name: tensor.astype(dtype) for name, tensor in tensors_of(weights).items()}
    save_file(narrow, hugging_face / "model.safetensors")
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in weights.items()}
    assert_same(read_hugging_face(hugging_face)[1], expected)


def test_checkpoint_without_weights_is_rejected(hugging_face: Path) -> None:
    """The error contains the expected file names."""
    (hugging_face / "model.safetensors").unlink()
    message = refusal(lambda: read_hugging_face(hugging_face), str(hugging_face))
    assert "neither model.safetensors nor pytorch_model.bin" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"),
        ("model_type", None),
        ("model_type", "fnet\nbert"),
        ("hidden_act", "gelu"),
        ("hidden_act", ["gelu_new"]),
        ("layer_norm_eps", 1e-5),
        ("layer_norm_eps", "1e-12\n"),
        ("hidden_size", None),
        ("hidden_size", "twelve\n"),
        ("hidden_size", float("inf")),
        ("vocab_size", []),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 10**9),
    ],
    ids=repr,
)
def test_configuration_of_another_model_is_rejected(
    hugging_face: Path, write_json: WriteJson, field: str, value: Any
) -> None:
    """Another model, activation or epsilon would give other outputs."""
    write_json(hugging_face / "config.json", HUGGING_FACE_CONFIG | {field: value})
    refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize("field", HUGGING_FACE_CONFIG)
def test_missing_field_of_the_configuration_is_reported(hugging_face: Path, write_json: WriteJson, field: str) -> None:
    """Missing fields have no default."""
    write_json(hugging_face / "config.json", {key: value for key, value in HUGGING_FACE_CONFIG.items() if key != field})
    assert field in refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"7", b"[" * 100_000], ids=lambda content: repr(content)[:20]
)
def test_damaged_configuration_is_rejected(hugging_face: Path, content: bytes | None) -> None:
    """The error for a missing or invalid configuration contains its name."""
    if content is None:
        (hugging_face / "config.json").unlink()
    else:
        (hugging_face / "config.json").write_bytes(content)
    refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize("name", HUGGING_FACE_NAMES.values())
def test_missing_tensor_is_reported(hugging_face: Path, weights: Weights, name: str) -> None:
    """Each tensor is required."""
    tensors = tensors_of(weights)
    del tensors[name]
    save_file(tensors, hugging_face / "model.safetensors")
    assert f"tensor {name} is missing" in refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (np.zeros((12, 13), np.float32), "shape"),
        (np.zeros(12, np.float32), "shape"),
        (np.full((12, 12), np.nan, np.float32), "non-finite"),
        (np.full((12, 12), np.inf, np.float32), "non-finite"),
    ],
    ids=["wide", "flat", "nan", "inf"],
)
def test_tensor_that_does_not_fit_is_reported(
    hugging_face: Path, weights: Weights, tensor: npt.NDArray[Any], reason: str
) -> None:
    """Shape and values are checked against the configuration."""
    save_file(tensors_of(weights) | {"pooler.dense.weight": tensor}, hugging_face / "model.safetensors")
    message = refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")
    assert "pooler.dense.weight" in message
    assert reason in message


def test_unknown_element_type_is_rejected(hugging_face: Path, weights: Weights) -> None:
    """A tensor of 8-bit floats, which NumPy does not support, is rejected."""
    save_file(tensors_of(weights), hugging_face / "model.safetensors")
    data = (hugging_face / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    start = header["pooler.dense.bias"]["data_offsets"][0]
    header["pooler.dense.bias"] |= {"dtype": "F8_E4M3", "shape": [48], "data_offsets": [start, start + 48]}
    written = json.dumps(header).encode()
    (hugging_face / "model.safetensors").write_bytes(struct.pack("<Q", len(written)) + written + data[8 + size :])
    refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_checkpoint_is_rejected(hugging_face: Path, share: float) -> None:
    """A file that is truncated anywhere is reported as not readable."""
    path = hugging_face / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "not readable" in refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")


@pytest.mark.parametrize("content", [b"\x80\x04}.", b"\xff" * 100, struct.pack("<Q", 2) + b"[]"], ids=repr)
def test_another_kind_of_checkpoint_is_rejected(hugging_face: Path, content: bytes) -> None:
    """A file that is not safetensors is not opened as another format."""
    (hugging_face / "model.safetensors").write_bytes(content)
    refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")
