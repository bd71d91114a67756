"""The NumPy reference equals the oracle and the Keras backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.reference import encode_one, random_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

Array = npt.NDArray[Any]


def random_ids(architecture: Architecture, length: int) -> tuple[Array, Array]:
    """Return token ids and segment ids of a sequence."""
    random = np.random.default_rng(length)
    token_ids = random.integers(0, architecture.vocabulary_size, length).astype(np.int32)
    return token_ids, random.integers(0, architecture.num_segments, length).astype(np.int32)


def assert_close(outputs: tuple[Array, Array], true: tuple[Array, Array]) -> None:
    """Assert that both outputs are float32 and within rounding of the expected ones."""
    for array, expected in zip(outputs, true, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, atol=2e-5)


@pytest.mark.parametrize("changes", [{}, {"hidden_dim": 7}, {"num_layers": 0}, {"num_segments": 1}], ids=str)
def test_reference_equals_the_oracle(
    tiny: Architecture,
    make_weights: Callable[..., dict[str, npt.NDArray[np.float32]]],
    oracle: Callable[..., tuple[Array, Array]],
    changes: dict[str, int],
) -> None:
    """Both outputs are equal for sequences of one token up to all positions."""
    architecture = dataclasses.replace(tiny, **changes)
    weights = make_weights(architecture)
    for length in (1, 2, 11, 24):
        ids = random_ids(architecture, length)
        assert_close(encode_one(architecture, weights, *ids), oracle(weights, *ids))


def test_reference_equals_the_backbone(
    tiny: Architecture, make_weights: Callable[..., dict[str, npt.NDArray[np.float32]]]
) -> None:
    """Outputs equal those of the Keras network with the same weights."""
    architecture = dataclasses.replace(tiny, hidden_dim=7)
    weights = make_weights(architecture)
    backbone = FNetBackbone.from_architecture(architecture)
    backbone.assign_weights(weights)
    for length in (1, 24):
        ids = random_ids(architecture, length)
        assert_close(encode_one(architecture, weights, *ids), backbone.encode_one(*ids))


def test_random_weights_have_the_distribution_of_a_new_backbone(tiny: Architecture) -> None:
    """Shapes and distribution equal those of a new backbone, and a seed determines the weights."""
    architecture = dataclasses.replace(tiny, hidden_dim=64, intermediate_dim=128)
    arrays, initial = random_weights(architecture, 1), FNetBackbone.from_architecture(architecture).named_weights()
    assert {name: array.shape for name, array in arrays.items()} == {
        name: array.shape for name, array in initial.items()
    }
    for name, array in arrays.items():
        assert array.dtype == np.float32
        if array.size > 1000:
            assert array.std() == pytest.approx(initial[name].std(), rel=0.1)
        if "norm" in name:
            assert np.array_equal(array, initial[name])
    again, other = random_weights(architecture, 1), random_weights(architecture, 2)
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())
    assert not np.array_equal(other["pooled_dense/kernel"], arrays["pooled_dense/kernel"])
