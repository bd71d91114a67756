"""The self-test's reference is the network that the Keras backbone is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.plain import encode_one, random_weights

Array = npt.NDArray[Any]


@pytest.mark.parametrize("changes", [{}, {"hidden_dim": 7}, {"num_layers": 0}, {"num_segments": 1}], ids=str)
def test_it_computes_what_the_backbone_and_the_oracle_compute(
    tiny: Architecture,
    make_weights: Callable[..., dict[str, npt.NDArray[np.float32]]],
    oracle: Callable[..., tuple[Array, Array]],
    changes: dict[str, int],
) -> None:
    """Both outputs, for sequences of one token and of as many as there are positions."""
    architecture = dataclasses.replace(tiny, **changes)
    weights = make_weights(architecture)
    backbone = FNetBackbone.from_architecture(architecture)
    backbone.assign_weights(weights)
    random = np.random.default_rng(0)
    for length in (1, 2, 11, 24):
        token_ids = random.integers(0, architecture.vocabulary_size, length).astype(np.int32)
        segment_ids = random.integers(0, architecture.num_segments, length).astype(np.int32)
        found = encode_one(architecture, weights, token_ids, segment_ids)
        for ours, keras, true in zip(
            found, backbone.encode_one(token_ids, segment_ids), oracle(weights, token_ids, segment_ids), strict=True
        ):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, keras, atol=2e-5)
            np.testing.assert_allclose(ours, true, atol=2e-5)


def test_random_weights_are_those_of_a_new_backbone(tiny: Architecture) -> None:
    """The same shapes; normal with a deviation of 0.02, norms that change nothing; the same for the same seed."""
    architecture = dataclasses.replace(tiny, hidden_dim=64, intermediate_dim=128)
    ours, new = random_weights(architecture, 1), FNetBackbone.from_architecture(architecture).named_weights()
    assert {name: array.shape for name, array in ours.items()} == {name: array.shape for name, array in new.items()}
    for name, array in ours.items():
        assert array.dtype == np.float32
        if array.size > 1000:
            assert array.std() == pytest.approx(new[name].std(), rel=0.1)
        if "norm" in name:
            assert np.array_equal(array, new[name])
    again, other = random_weights(architecture, 1), random_weights(architecture, 2)
    assert all(np.array_equal(again[name], array) for name, array in ours.items())
    assert not np.array_equal(other["pooled_dense/kernel"], ours["pooled_dense/kernel"])
