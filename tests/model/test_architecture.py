"""The architecture determines the variables of a network and their number."""

from __future__ import annotations

import dataclasses

import pytest

from model.architecture import Architecture
from model.presets.hub import BUILT_IN_PRESETS

BASE = Architecture(vocabulary_size=32000, num_layers=12, hidden_dim=768, intermediate_dim=3072)
LARGE = Architecture(vocabulary_size=32000, num_layers=24, hidden_dim=1024, intermediate_dim=4096)


@pytest.mark.parametrize(
    ("name", "architecture", "parameters"),
    [("f_net_base_en", BASE, 82_861_056), ("f_net_large_en", LARGE, 236_945_408)],
)
def test_published_networks_have_their_published_sizes(name: str, architecture: Architecture, parameters: int) -> None:
    """The parameter counts of the base and large networks equal those of keras-hub."""
    assert architecture.parameter_count == parameters
    assert BUILT_IN_PRESETS[name]["metadata"]["params"] == parameters


def test_defaults_equal_those_of_keras() -> None:
    """Dropout, positions and segments are optional."""
    assert (BASE.dropout, BASE.max_sequence_length, BASE.num_segments) == (0.1, 512, 4)


def test_every_layer_has_eight_variables_around_nine_shared_ones() -> None:
    """A network has nine variables, and eight more per layer."""
    counts = [len(dataclasses.replace(BASE, num_layers=layers).variable_shapes()) for layers in (0, 1, 5)]
    assert counts == [9, 9 + 8, 9 + 5 * 8]


def test_variables_are_in_the_order_of_the_forward_pass() -> None:
    """Embeddings come first, then the layers ascending, and the pooler last."""
    names = list(dataclasses.replace(BASE, num_layers=2).variable_shapes())
    assert names[0] == "token_embedding/embeddings"
    assert names.index("layers/0/output_layer_norm/beta") + 1 == names.index("layers/1/mixing_layer_norm/gamma")
    assert names[-2:] == ["pooled_dense/kernel", "pooled_dense/bias"]


def test_kernels_are_input_by_output() -> None:
    """The feed-forward kernels widen and narrow as `[in, out]`."""
    shapes = BASE.variable_shapes()
    assert shapes["layers/0/intermediate_dense/kernel"] == (768, 3072)
    assert shapes["layers/0/output_dense/kernel"] == (3072, 768)
    assert shapes["position_embedding/embeddings"] == (512, 768)
    assert shapes["segment_embedding/embeddings"] == (4, 768)


def test_architectures_compare_by_value_and_are_immutable() -> None:
    """Architectures with equal sizes are equal, and their fields are read-only."""
    assert dataclasses.replace(BASE) == BASE
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.num_layers = 3  # type: ignore[misc]
