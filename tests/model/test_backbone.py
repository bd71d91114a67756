"""FNetBackbone has the interface documented by Keras, and computes the network of the paper."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import ops

import model
from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.errors import PresetError
from model.presets.preset import read_preset

pytestmark = pytest.mark.usefixtures("quick_compilation")

Array = npt.NDArray[Any]
MakeWeights = Callable[..., dict[str, npt.NDArray[np.float32]]]

RANDOM = np.random.default_rng(6)


def build(architecture: Architecture, **arguments: Any) -> FNetBackbone:
    """Return a network of an architecture."""
    return FNetBackbone(**dataclasses.asdict(architecture), **arguments)


def inputs_of(architecture: Architecture, batch: int = 2, length: int = 6) -> dict[str, Array]:
    """Return random inputs of the network."""
    return {
        "token_ids": RANDOM.integers(0, architecture.vocabulary_size, (batch, length)).astype(np.int32),
        "segment_ids": RANDOM.integers(0, architecture.num_segments, (batch, length)).astype(np.int32),
    }


def as_numpy(tensor: Any) -> Array:
    """Return a Keras tensor as float32."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


@pytest.fixture(scope="module")
def backbone(tiny: Architecture, make_weights: MakeWeights) -> FNetBackbone:
    """The tiny network; tests do not change its weights."""
    network = build(tiny)
    network.assign_weights(make_weights(tiny))
    return network


# --- Interface ---


def test_constructor_has_the_documented_signature() -> None:
    """Names, order and defaults are those of keras_nlp and keras_hub."""
    parameters = list(inspect.signature(FNetBackbone).parameters.values())
    assert [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [
        ("vocabulary_size", inspect.Parameter.empty),
        ("num_layers", inspect.Parameter.empty),
        ("hidden_dim", inspect.Parameter.empty),
        ("intermediate_dim", inspect.Parameter.empty),
        ("dropout", 0.1),
        ("max_sequence_length", 512),
        ("num_segments", 4),
        ("dtype", None),
    ]
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


def test_from_preset_has_the_documented_signature() -> None:
    """The arguments are a preset, whether to load weights, and overrides."""
    parameters = inspect.signature(FNetBackbone.from_preset).parameters
    assert list(parameters) == ["preset", "load_weights", "kwargs"]
    assert parameters["load_weights"].default is True


def test_package_exports_the_class() -> None:
    """`model.FNetBackbone` is imported on first access, and unknown names raise AttributeError."""
    assert model.FNetBackbone is FNetBackbone
    assert not hasattr(model, "BertBackbone")


def test_presets_are_listed() -> None:
    """The class lists its built-in presets with description and size."""
    assert set(FNetBackbone.presets) == {"f_net_base_en", "f_net_large_en"}
    assert FNetBackbone.presets["f_net_base_en"]["metadata"]["params"] == 82_861_056


def test_constructor_arguments_are_attributes(backbone: FNetBackbone, tiny: Architecture) -> None:
    """Every constructor argument is an attribute of the same name."""
    for field in dataclasses.fields(Architecture):
        assert getattr(backbone, field.name) == getattr(tiny, field.name)
    assert backbone.count_params() == tiny.parameter_count


def test_inputs_and_outputs_are_dictionaries(backbone: FNetBackbone, tiny: Architecture) -> None:
    """Inputs and outputs have the documented keys and shapes at any length."""
    assert set(backbone.input) == {"token_ids", "segment_ids"}
    for length in (1, 6, 24):
        outputs = backbone.predict_on_batch(inputs_of(tiny, 2, length))
        assert {name: tuple(output.shape) for name, output in outputs.items()} == {
            "sequence_output": (2, length, 12),
            "pooled_output": (2, 12),
        }


def test_token_embedding_is_reversible(backbone: FNetBackbone, make_weights: MakeWeights, tiny: Architecture) -> None:
    """The layer embeds ids and, reversed, scores the vocabulary."""
    table = make_weights(tiny)["token_embedding/embeddings"]
    ids = np.array([[3, 0, 39]], np.int32)
    assert np.array_equal(as_numpy(backbone.token_embedding(ids)), table[ids])
    vectors = RANDOM.normal(size=(1, 2, 12)).astype(np.float32)
    scores = as_numpy(backbone.token_embedding(vectors, reverse=True))
    np.testing.assert_allclose(scores, vectors @ table.T, atol=1e-5)


# --- Outputs ---


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden_dim": 7, "intermediate_dim": 1}, {"num_segments": 1}, {"num_layers": 0}],
    ids=str,
)
def test_outputs_equal_the_oracle(
    tiny: Architecture,
    make_weights: MakeWeights,
    oracle: Callable[..., tuple[Array, Array]],
    changes: dict[str, int],
) -> None:
    """Outputs equal those of the float64 oracle, also for odd sizes, one segment and no layers."""
    architecture = dataclasses.replace(tiny, **changes)
    weights = make_weights(architecture)
    network = build(architecture)
    network.assign_weights(weights)
    inputs = inputs_of(architecture, 1, 9)
    token_ids, segment_ids = inputs["token_ids"][0], inputs["segment_ids"][0]
    sequence, pooled = oracle(weights, token_ids, segment_ids)
    found_sequence, found_pooled = network.encode_one(token_ids, segment_ids)
    np.testing.assert_allclose(found_sequence, sequence, atol=5e-5)
    np.testing.assert_allclose(found_pooled, pooled, atol=5e-5)
    assert found_sequence.dtype == found_pooled.dtype == np.float32


def test_members_of_a_batch_are_independent(backbone: FNetBackbone, tiny: Architecture) -> None:
    """Each sequence of a batch has the outputs that it has alone."""
    inputs = inputs_of(tiny)
    outputs = backbone.predict_on_batch(inputs)
    for member in range(2):
        sequence, pooled = backbone.encode_one(inputs["token_ids"][member], inputs["segment_ids"][member])
        np.testing.assert_allclose(outputs["sequence_output"][member], sequence, atol=1e-5)
        np.testing.assert_allclose(outputs["pooled_output"][member], pooled, atol=1e-5)


def test_padding_changes_the_outputs(backbone: FNetBackbone) -> None:
    """A `<pad>` after a sequence changes the outputs of earlier tokens, since FNet has no mask."""
    short = np.array([4, 8, 9, 5], np.int32)
    padded = np.array([4, 8, 9, 5, 3, 3], np.int32)
    sequence, pooled = backbone.encode_one(short, np.zeros(4, np.int32))
    padded_sequence, padded_pooled = backbone.encode_one(padded, np.zeros(6, np.int32))
    assert np.abs(sequence - padded_sequence[:4]).max() > 0.01
    assert np.abs(pooled - padded_pooled).max() > 0.001


def test_segments_and_order_matter(backbone: FNetBackbone) -> None:
    """Other segment ids or another order of tokens change the outputs."""
    ids, zeros = np.array([4, 8, 9, 5], np.int32), np.zeros(4, np.int32)
    _, pooled = backbone.encode_one(ids, zeros)
    _, other_segments = backbone.encode_one(ids, np.array([0, 0, 1, 1], np.int32))
    _, other_order = backbone.encode_one(ids[[0, 2, 1, 3]], zeros)
    assert np.abs(pooled - other_segments).max() > 0.001
    assert np.abs(pooled - other_order).max() > 0.001


def test_sequence_longer_than_the_positions_is_rejected(backbone: FNetBackbone, tiny: Architecture) -> None:
    """The message contains the length and the name of the limit."""
    with pytest.raises(ValueError, match="25 tokens exceed max_sequence_length of 24"):
        backbone(inputs_of(tiny, 1, 25))


@pytest.mark.parametrize(
    ("policy", "compute", "variable"),
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("mixed_float16", "float16", "float32"),
    ],
)
def test_every_dtype_policy_works(
    tiny: Architecture, make_weights: MakeWeights, backbone: FNetBackbone, policy: str, compute: str, variable: str
) -> None:
    """Outputs are finite, in the policy's compute dtype, and close to those of float32."""
    network = build(tiny, dtype=policy)
    network.assign_weights(make_weights(tiny))
    assert {weight.dtype for weight in network.weights} == {variable}
    inputs = inputs_of(tiny)
    outputs = network.predict_on_batch(inputs)
    assert {str(output.dtype) for output in outputs.values()} == {compute}
    for name, true in backbone.predict_on_batch(inputs).items():
        actual = outputs[name].astype(np.float32)
        assert np.isfinite(actual).all()
        assert (actual * true).sum() > 0.99 * np.linalg.norm(actual) * np.linalg.norm(true)


# --- Saving and loading ---


def test_configuration_round_trip(tiny: Architecture) -> None:
    """`from_config(get_config())` preserves arguments, name and dtype, and the configuration is plain JSON."""
    network = build(tiny, dtype="mixed_bfloat16", name="mine")
    config = json.loads(json.dumps(network.get_config()))
    again = FNetBackbone.from_config(config)
    assert again.get_config() == network.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert config["name"] == "mine"


def test_weights_have_the_names_of_the_architecture(
    backbone: FNetBackbone, tiny: Architecture, make_weights: MakeWeights
) -> None:
    """Weights assigned by name are read back by name."""
    weights = make_weights(tiny)
    actual = backbone.named_weights()
    assert list(actual) == list(tiny.variable_shapes())
    assert all(np.array_equal(actual[name], weights[name]) for name in weights)


def test_saved_preset_has_equal_outputs(backbone: FNetBackbone, tiny: Architecture, tmp_path: Path) -> None:
    """Saving and loading preserves the bits of the outputs."""
    backbone.save_to_preset(tmp_path / "new" / "preset")
    again = FNetBackbone.from_preset(tmp_path / "new" / "preset")
    inputs = inputs_of(tiny)
    expected = backbone.predict_on_batch(inputs)
    for name, output in again.predict_on_batch(inputs).items():
        assert np.array_equal(output, expected[name])


def test_saved_preset_has_configuration_and_metadata(
    backbone: FNetBackbone, tiny: Architecture, tmp_path: Path
) -> None:
    """The files contain the class name of keras-hub and the sizes; other files are not changed."""
    (tmp_path / "README.md").write_text("kept")
    backbone.save_to_preset(str(tmp_path))
    assert read_preset(tmp_path).architecture == tiny
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["registered_name"] == "keras_hub>FNetBackbone"
    assert config["module"] == "keras_hub.src.models.f_net.f_net_backbone"
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["parameter_count"] == tiny.parameter_count
    assert (tmp_path / "README.md").read_text() == "kept"


def test_preset_is_loaded_with_its_weights(
    preset_directory: Path, tiny: Architecture, make_weights: MakeWeights
) -> None:
    """A directory is accepted as a path and as a string."""
    weights = make_weights(tiny)
    for handle in (preset_directory, str(preset_directory)):
        actual = FNetBackbone.from_preset(handle).named_weights()
        assert all(np.array_equal(actual[name], weights[name]) for name in weights)


def test_weights_are_random_without_load_weights(preset_directory: Path) -> None:
    """`load_weights=False` needs no weights file, and each network has other weights."""
    (preset_directory / "model.weights.h5").unlink()
    one, other = (FNetBackbone.from_preset(preset_directory, load_weights=False).named_weights() for _ in range(2))
    for name in ("token_embedding/embeddings", "layers/1/output_dense/kernel", "pooled_dense/bias"):
        assert 0.005 < one[name].std() < 0.05
        assert not np.array_equal(one[name], other[name])
    assert (one["embeddings_layer_norm/gamma"] == 1).all()


def test_arguments_override_the_preset(preset_directory: Path) -> None:
    """Keyword arguments override those of the preset, for example its dtype."""
    network = FNetBackbone.from_preset(preset_directory, dtype="bfloat16", dropout=0.3, name="mine")
    assert (network.dtype_policy.name, network.dropout, network.name) == ("bfloat16", 0.3, "mine")
    assert {weight.dtype for weight in network.weights} == {"bfloat16"}


def test_preset_that_does_not_fit_is_rejected(preset_directory: Path) -> None:
    """Weights of another network are rejected."""
    with pytest.raises(PresetError, match=r"^model\.weights\.h5: "):
        FNetBackbone.from_preset(preset_directory, num_segments=2)
    with pytest.raises(PresetError, match="no such preset"):
        FNetBackbone.from_preset("nonsense")


# --- Training ---


def test_training_changes_every_variable(tiny: Architecture) -> None:
    """Two steps with a small head change all variables of the backbone, and the loss is finite."""
    network = build(tiny)
    head = keras.layers.Dense(2)(network(network.input)["pooled_output"])
    classifier = keras.Model(network.input, head)
    classifier.compile(
        optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = network.named_weights()
    history = classifier.fit(inputs_of(tiny, 8, 6), RANDOM.integers(0, 2, 8), batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = network.named_weights()
    assert [name for name in before if np.array_equal(before[name], after[name])] == []
    assert all(np.isfinite(array).all() for array in after.values())


def test_dropout_is_for_training_only(backbone: FNetBackbone, tiny: Architecture) -> None:
    """Inference is deterministic, and training drops other values in each call."""
    inputs = inputs_of(tiny)
    calm = [as_numpy(backbone(inputs, training=False)["sequence_output"]) for _ in range(2)]
    assert np.array_equal(calm[0], calm[1])
    noisy = [as_numpy(backbone(inputs, training=True)["sequence_output"]) for _ in range(2)]
    assert not np.allclose(noisy[0], calm[0])
    assert not np.allclose(noisy[0], noisy[1])
