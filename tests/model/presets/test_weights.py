"""Weight files of every layout give the same arrays; a damaged or hostile one gives one line and nothing else."""

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

# Where Keras 3 puts the variables of an FNetBackbone, written out once more as a specification.
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
    """Write some variables as Keras would, without the package's help."""
    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            data = file.create_dataset(f"{root}/{paths[name]}", data=array)
            if array.dtype == ml_dtypes.bfloat16:
                data.attrs["dtype"] = "bfloat16"


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare two sets of weights to the bit."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], array), name


def refusal(call: Callable[[], object], file: str) -> str:
    """Return the message of the PresetError that `call` raises: one line that begins with the file's name."""
    with pytest.raises(PresetError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{file}: ")
    return message


# --- Keras files ---


def test_what_is_written_is_read(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """Weights survive the file to the bit, in the order of the forward pass."""
    assert_same(read_weights(stored, tiny), weights)


def test_file_is_laid_out_as_keras_lays_it_out(stored: Path, weights: Weights) -> None:
    """Every variable lies where Keras 3 looks for it, and nothing else is there."""
    found: list[str] = []
    with h5py.File(stored / WEIGHTS_FILE) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        for name, path in KERAS_PATHS.items():
            assert np.array_equal(file[f"layers/{path}"], weights[name])
    assert sorted(found) == sorted(f"layers/{path}" for path in KERAS_PATHS.values())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(tmp_path: Path, tiny: Architecture, weights: Weights, dtype: Any) -> None:
    """A file may hold half or double precision; what is read is float32."""
    write_weights(tmp_path / WEIGHTS_FILE, weights, dtype)
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in weights.items()}
    assert_same(read_weights(tmp_path, tiny), expected)


def test_bfloat16_is_known_by_its_mark(tmp_path: Path, tiny: Architecture, weights: Weights) -> None:
    """Keras keeps bfloat16 as two opaque bytes and an attribute."""
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    write_file(tmp_path / WEIGHTS_FILE, narrow)
    assert_same(read_weights(tmp_path, tiny), {name: array.astype(np.float32) for name, array in narrow.items()})


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.parametrize("paths", [KERAS_PATHS, OLDER_SPELLING], ids=["reversible_embedding", "embedding_1"])
def test_older_paths_are_understood(
    tmp_path: Path, tiny: Architecture, weights: Weights, root: str, paths: dict[str, str]
) -> None:
    """Releases differ in the name of the root and of the token embedding."""
    write_file(tmp_path / WEIGHTS_FILE, weights, paths, root)
    assert_same(read_weights(tmp_path, tiny), weights)


def test_shards_are_read_as_one(tmp_path: Path, tiny: Architecture, weights: Weights) -> None:
    """A large model lies in several files, which an index names by layer."""
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


def test_what_belongs_to_no_variable_is_left_alone(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """Optimizer state or a task's head beside the backbone do no harm."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["optimizer/vars/0"] = 3
        file["layers/dense_2/vars/0"] = np.zeros((5, 5))
        file.create_group("layers/dropout/vars")
    assert_same(read_weights(stored, tiny), weights)


def test_network_without_layers_has_weights_too(tmp_path: Path, tiny: Architecture, make_weights: MakeWeights) -> None:
    """Zero layers leave the embeddings and the pooler."""
    flat = dataclasses.replace(tiny, num_layers=0)
    write_weights(tmp_path / WEIGHTS_FILE, make_weights(flat))
    assert_same(read_weights(tmp_path, flat), make_weights(flat))


def test_digest_is_of_the_files(stored: Path, weights: Weights) -> None:
    """Equal bytes have one digest, shards are digested in order, and one changed byte changes it."""
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


def test_missing_weights_are_named(tmp_path: Path, tiny: Architecture) -> None:
    """Without a file or an index, the message names both."""
    message = refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)
    assert "missing" in message
    assert SHARD_INDEX_FILE in message
    refusal(lambda: weights_digest(tmp_path), WEIGHTS_FILE)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncated_file_is_refused(stored: Path, tiny: Architecture, share: float) -> None:
    """Wherever a download broke off, the file is told to be damaged."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    (stored / WEIGHTS_FILE).write_bytes(data[: int(len(data) * share)])
    assert "damaged" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize(
    "content",
    [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n", np.random.default_rng(0).bytes(5000), pickle.dumps({"weights": [1, 2]})],
    ids=["empty", "text", "signature", "random", "pickle"],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, tiny: Architecture, content: bytes) -> None:
    """What is no HDF5 is not opened in any other way, a pickle least of all."""
    (tmp_path / WEIGHTS_FILE).write_bytes(content)
    assert "damaged" in refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)


def test_pickle_is_never_executed(tmp_path: Path, tiny: Architecture) -> None:
    """A file that would run code when unpickled runs none."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / WEIGHTS_FILE).write_bytes(pickle.dumps(Trap()))
    refusal(lambda: read_weights(tmp_path, tiny), WEIGHTS_FILE)
    assert not (tmp_path / "executed").exists()


def test_flipped_bytes_never_raise_anything_else(stored: Path, tiny: Architecture) -> None:
    """With bytes changed at random the file is read or refused, and nothing but PresetError is raised."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    random = np.random.default_rng(2)
    refusals: list[str] = []
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(256)
        (stored / WEIGHTS_FILE).write_bytes(damaged)
        try:
            found = read_weights(stored, tiny)
        except PresetError as error:
            refusals.append(str(error))
        else:
            assert {name: array.shape for name, array in found.items()} == tiny.variable_shapes()
    assert len(refusals) > 30
    assert all(message.startswith(f"{WEIGHTS_FILE}: ") for message in refusals)
    assert all(len(message.splitlines()) == 1 for message in refusals)


def test_names_that_are_no_text_are_refused(stored: Path, tiny: Architecture) -> None:
    """A group's name that is not UTF-8 is damage like any other."""
    data = (stored / WEIGHTS_FILE).read_bytes()
    (stored / WEIGHTS_FILE).write_bytes(data.replace(b"reversible_embedding", b"reversible_\xff\xfe\xfd\xfc\xfbding"))
    refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize("name", KERAS_PATHS)
def test_missing_variable_is_named(stored: Path, tiny: Architecture, name: str) -> None:
    """Each variable is necessary; the message has its path in the file and its name."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        del file[f"layers/{KERAS_PATHS[name]}"]
    message = refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)
    assert f"variable layers/{KERAS_PATHS[name]} ({name}) is missing" in message


def test_layers_that_nobody_describes_are_refused(stored: Path, tiny: Architecture) -> None:
    """A configuration with fewer layers than the file holds describes another network."""
    fewer = dataclasses.replace(tiny, num_layers=tiny.num_layers - 1)
    message = refusal(lambda: read_weights(stored, fewer), WEIGHTS_FILE)
    assert f"config.json's num_layers is {fewer.num_layers}" in message


def test_file_for_another_network_is_refused(stored: Path, tiny: Architecture) -> None:
    """Weights of another hidden size are refused with both shapes."""
    message = refusal(lambda: read_weights(stored, dataclasses.replace(tiny, hidden_dim=13)), WEIGHTS_FILE)
    assert "has shape (40, 12), expected (40, 13) by config.json" in message


def replace(directory: Path, make: Callable[[h5py.Group], object]) -> None:
    """Put something else in the place of one variable."""
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
        (np.full((12, 12), np.nan, np.float32), "not finite"),
        (np.full((12, 12), np.inf, np.float16), "not finite"),
        (np.full((12, 12), -np.inf, np.float32), "not finite"),
        (np.full((12, 12), 1e300), "not finite"),
    ],
    ids=repr,
)
def test_array_that_does_not_fit_is_refused(stored: Path, tiny: Architecture, data: Any, reason: str) -> None:
    """Shape, type and values are checked, for each variable by its name."""
    replace(stored, lambda group: group.create_dataset("0", data=data))
    message = refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)
    assert KERNEL in message
    assert reason in message


def test_one_value_that_is_not_finite_is_enough(stored: Path, tiny: Architecture) -> None:
    """A single NaN among the values refuses the file."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file[KERNEL][3, 4] = np.nan
    assert "not finite" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


@pytest.mark.parametrize("mark", [["bfloat16", "bfloat16"], 7, "float8", h5py.Empty("f4")], ids=repr)
def test_false_mark_of_bfloat16_is_refused(stored: Path, tiny: Architecture, mark: Any) -> None:
    """Two opaque bytes are bfloat16 only when the attribute says just that."""

    def make(group: h5py.Group) -> None:
        data = group.create_dataset("0", data=np.zeros((12, 12), ml_dtypes.bfloat16))
        data.attrs["dtype"] = mark

    replace(stored, make)
    refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_links_are_not_followed(stored: Path, tiny: Architecture, weights: Weights, tmp_path: Path) -> None:
    """Soft and external links are refused even when they lead to the right data."""
    write_file(tmp_path / "elsewhere.h5", weights)
    for link in (h5py.SoftLink("/layers/dense_1/vars/0"), h5py.ExternalLink("elsewhere.h5", f"/{KERNEL}")):
        with h5py.File(stored / WEIGHTS_FILE, "a") as file:
            del file[KERNEL]
            file[KERNEL] = link
        assert "link" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_link_with_a_line_break_in_its_name_stays_one_line(stored: Path, tiny: Architecture) -> None:
    """Names come from the file: they are quoted, not repeated."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["layers/first\nsecond"] = h5py.SoftLink("/layers")
    assert "first\\nsecond" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_data_outside_the_file_is_not_read(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """An external dataset, whose bytes lie in a file of any name, is refused."""
    (stored / "raw").write_bytes(weights["embedding_projection/kernel"].tobytes())
    replace(
        stored, lambda group: group.create_dataset("0", (12, 12), np.float32, external=[(str(stored / "raw"), 0, 576)])
    )
    assert "outside" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_data_put_together_from_other_files_is_not_read(stored: Path, tiny: Architecture, weights: Weights) -> None:
    """A virtual dataset, which maps other files, is refused."""
    write_file(stored / "elsewhere.h5", weights)
    layout = h5py.VirtualLayout((12, 12), np.float32)
    layout[:] = h5py.VirtualSource(str(stored / "elsewhere.h5"), KERNEL, (12, 12))
    replace(stored, lambda group: group.create_virtual_dataset("0", layout))
    assert "outside" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_group_within_itself_is_refused(stored: Path, tiny: Architecture) -> None:
    """A loop of hard links is noticed."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file["layers/dense/again"] = file["layers"]
    assert "linked twice" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_groups_that_multiply_are_refused(stored: Path, tiny: Architecture) -> None:
    """Thirty links at each of seven levels would be twenty thousand million paths."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        group = file.create_group("many")
        for _ in range(7):
            inner = group.create_group("0")
            for link in range(1, 30):
                group[str(link)] = inner
            group = inner
    assert "linked twice" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


def test_deep_nesting_is_refused(stored: Path, tiny: Architecture) -> None:
    """A thousand groups in one another are no weights file."""
    with h5py.File(stored / WEIGHTS_FILE, "a") as file:
        file.create_group("/".join("x" * 1000))
    assert "too deep" in refusal(lambda: read_weights(stored, tiny), WEIGHTS_FILE)


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
def test_damaged_index_is_refused(tmp_path: Path, tiny: Architecture, content: bytes) -> None:
    """An index that is no JSON, or has no map of names, is told so."""
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
    """An index cannot lead out of the preset's directory, or to another kind of file."""
    inner = stored / "preset"
    inner.mkdir()
    write_file(inner / "model_00000.weights.h5", weights)
    write_file(stored / "x.weights.h5", weights)
    (inner / SHARD_INDEX_FILE).write_text(json.dumps({"weight_map": {"/layers/dense/vars": shard}}))
    refusal(lambda: read_weights(inner, tiny), SHARD_INDEX_FILE)


def test_missing_shard_is_named(tmp_path: Path, tiny: Architecture) -> None:
    """A shard that the index names has to be there."""
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
    f"layers/{index}/{ours}": f"encoder.layer.{index}.{theirs}"
    for index in (0, 1)
    for ours, theirs in {
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
    """Return the weights as transformers names and turns them."""
    return {
        prefix + HUGGING_FACE_NAMES[name]: np.ascontiguousarray(array.T if name.endswith("kernel") else array)
        for name, array in weights.items()
    }


@pytest.fixture
def hugging_face(tmp_path: Path, weights: Weights, write_json: WriteJson) -> Path:
    """A checkpoint of the tiny network as transformers saves it."""
    write_json(tmp_path / "config.json", HUGGING_FACE_CONFIG)
    save_file(tensors_of(weights), tmp_path / "model.safetensors")
    return tmp_path


def test_hugging_face_checkpoint_is_read(hugging_face: Path, tiny: Architecture, weights: Weights) -> None:
    """Its names and its turned kernels become ours."""
    architecture, found = read_hugging_face(hugging_face)
    assert architecture == tiny
    assert_same(found, weights)


def test_checkpoint_with_a_head_gives_its_encoder(hugging_face: Path, weights: Weights) -> None:
    """A prefix, position ids and the heads of pre-training are no obstacle."""
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
    """Half-precision tensors are widened."""
    narrow = {name: tensor.astype(dtype) for name, tensor in tensors_of(weights).items()}
    save_file(narrow, hugging_face / "model.safetensors")
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in weights.items()}
    assert_same(read_hugging_face(hugging_face)[1], expected)


def test_checkpoint_without_weights_is_told(hugging_face: Path) -> None:
    """With the names of the files that would do."""
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
def test_configuration_that_is_no_fnet_is_refused(
    hugging_face: Path, write_json: WriteJson, field: str, value: Any
) -> None:
    """Another model, activation or epsilon would give other numbers."""
    write_json(hugging_face / "config.json", HUGGING_FACE_CONFIG | {field: value})
    refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize("field", HUGGING_FACE_CONFIG)
def test_missing_field_of_the_configuration_is_named(hugging_face: Path, write_json: WriteJson, field: str) -> None:
    """Nothing is guessed."""
    write_json(hugging_face / "config.json", {key: value for key, value in HUGGING_FACE_CONFIG.items() if key != field})
    assert field in refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"7", b"[" * 100_000], ids=lambda content: repr(content)[:20]
)
def test_damaged_configuration_is_refused(hugging_face: Path, content: bytes | None) -> None:
    """A configuration that is missing or no JSON object is named."""
    if content is None:
        (hugging_face / "config.json").unlink()
    else:
        (hugging_face / "config.json").write_bytes(content)
    refusal(lambda: read_hugging_face(hugging_face), "config.json")


@pytest.mark.parametrize("name", HUGGING_FACE_NAMES.values())
def test_missing_tensor_is_named(hugging_face: Path, weights: Weights, name: str) -> None:
    """Each tensor is necessary."""
    tensors = tensors_of(weights)
    del tensors[name]
    save_file(tensors, hugging_face / "model.safetensors")
    assert f"tensor {name} is missing" in refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (np.zeros((12, 13), np.float32), "shape"),
        (np.zeros(12, np.float32), "shape"),
        (np.full((12, 12), np.nan, np.float32), "not finite"),
        (np.full((12, 12), np.inf, np.float32), "not finite"),
    ],
    ids=["wide", "flat", "nan", "inf"],
)
def test_tensor_that_does_not_fit_is_named(
    hugging_face: Path, weights: Weights, tensor: npt.NDArray[Any], reason: str
) -> None:
    """Shape and values are checked against the configuration."""
    save_file(tensors_of(weights) | {"pooler.dense.weight": tensor}, hugging_face / "model.safetensors")
    message = refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")
    assert "pooler.dense.weight" in message
    assert reason in message


def test_unknown_element_type_is_refused(hugging_face: Path, weights: Weights) -> None:
    """A tensor of 8-bit floats, which NumPy has no name for, is not guessed at."""
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
def test_truncated_checkpoint_is_refused(hugging_face: Path, share: float) -> None:
    """Wherever a download broke off, the file is told to be unreadable."""
    path = hugging_face / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "not readable" in refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")


@pytest.mark.parametrize("content", [b"\x80\x04}.", b"\xff" * 100, struct.pack("<Q", 2) + b"[]"], ids=repr)
def test_another_kind_of_checkpoint_is_refused(hugging_face: Path, content: bytes) -> None:
    """What is no safetensors file is not opened in any other way."""
    (hugging_face / "model.safetensors").write_bytes(content)
    refusal(lambda: read_hugging_face(hugging_face), "model.safetensors")
