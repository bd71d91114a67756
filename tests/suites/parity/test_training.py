"""FNetBackbone trains with the PyTorch backend of Keras, with the outputs of the JAX backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.backbone import FNetBackbone

ROOT = Path(__file__).parents[3]

# Runs in a subprocess, since Keras has one backend per process, and prints a report.
PROGRAM = """
import json, sys
import keras, numpy as np, torch
from keras import ops
from model.backbone import FNetBackbone

keras.utils.set_random_seed(13)
backbone = FNetBackbone.from_preset(sys.argv[1])
with np.load(sys.argv[2]) as stored:
    inputs = dict(stored)
report = {"backend": keras.backend.backend(), "dropout": backbone.dropout}

outputs = backbone(inputs, training=False)
np.savez(sys.argv[3], **{name: ops.convert_to_numpy(array) for name, array in outputs.items()})

# A sum of squares weighted at random: layer normalization makes plain sums constant.
weights = {name: torch.from_numpy(np.random.default_rng(14).normal(size=tuple(array.shape))).to(array)
           for name, array in outputs.items()}
loss = sum((weights[name] * array**2).sum() for name, array in backbone(inputs, training=False).items())
loss.backward()
report["gradients"] = {
    variable.path: None if variable.value.grad is None else float(variable.value.grad.abs().max())
    for variable in backbone.trainable_variables
}
backbone.zero_grad()

def difference(one, other):
    return max(float((one[name] - other[name]).detach().abs().max()) for name in one)

report["two inferences"] = difference(outputs, backbone(inputs, training=False))
report["two trainings"] = difference(backbone(inputs, training=True), backbone(inputs, training=True))
steady = FNetBackbone.from_architecture(backbone.architecture, dropout=0.0)
steady.assign_weights(backbone.named_weights())
report["training without dropout"] = difference(outputs, steady(inputs, training=True))

# The label is the half of the vocabulary that a sequence uses.
half = backbone.vocabulary_size // 2
labels = (np.arange(256) % 2).astype("int32")
ids = (np.random.default_rng(15).integers(0, half, (256, 10)) + half * labels[:, None]).astype("int32")
fresh = FNetBackbone.from_architecture(backbone.architecture)
before = fresh.named_weights()
model = keras.Model(fresh.input, keras.layers.Dense(2)(fresh.output["pooled_output"]))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
history = model.fit({"token_ids": ids, "segment_ids": np.zeros_like(ids)}, labels, batch_size=32, epochs=5, verbose=0)
report["losses"] = history.history["loss"]
report["unmoved"] = [name for name, array in fresh.named_weights().items() if np.array_equal(array, before[name])]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def backbone() -> FNetBackbone:
    """A small network with measurable dropout."""
    network = FNetBackbone(
        vocabulary_size=20,
        num_layers=2,
        hidden_dim=16,
        intermediate_dim=32,
        dropout=0.3,
        max_sequence_length=10,
        num_segments=2,
    )
    dice = np.random.default_rng(16)
    network.assign_weights(
        {
            name: dice.normal(scale=0.3, size=shape) + name.endswith("gamma")
            for name, shape in network.architecture.variable_shapes().items()
        }
    )
    return network


@pytest.fixture(scope="module")
def inputs(backbone: FNetBackbone) -> dict[str, npt.NDArray[np.int32]]:
    """Sequences with all positions, tokens and segments."""
    ids = np.resize(np.arange(backbone.vocabulary_size, dtype=np.int32), (6, backbone.max_sequence_length))
    return {"token_ids": ids, "segment_ids": ids % np.int32(backbone.num_segments)}


@pytest.fixture(scope="module")
def under_torch(
    backbone: FNetBackbone, inputs: dict[str, npt.NDArray[np.int32]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The report of the program for the same network, with its outputs."""
    directory = tmp_path_factory.mktemp("torch")
    backbone.save_to_preset(directory / "preset")
    np.savez(directory / "inputs.npz", **inputs)  # type: ignore[arg-type] # its stubs take keywords for flags
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, directory / "preset", directory / "inputs.npz", directory / "outputs.npz"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["backend"] == "torch"
    with np.load(directory / "outputs.npz") as stored:
        return {**report, "outputs": dict(stored)}


def test_torch_outputs_equal_jax(
    backbone: FNetBackbone, inputs: dict[str, npt.NDArray[np.int32]], under_torch: dict[str, Any]
) -> None:
    """A preset written with JAX has equal outputs with PyTorch."""
    for name, array in backbone.predict_on_batch(inputs).items():
        np.testing.assert_allclose(under_torch["outputs"][name], array, rtol=0, atol=1e-4)


def test_gradients_reach_every_variable(backbone: FNetBackbone, under_torch: dict[str, Any]) -> None:
    """Gradients reach all variables, also through the Fourier transform."""
    gradients = under_torch["gradients"]
    assert len(gradients) == len(backbone.architecture.variable_shapes())
    assert [name for name, largest in gradients.items() if not largest or not np.isfinite(largest)] == []


def test_dropout_applies_in_training_alone(under_torch: dict[str, Any]) -> None:
    """Training outputs vary between calls, inference outputs do not, and both are equal without dropout."""
    assert under_torch["dropout"] == 0.3
    assert under_torch["two trainings"] > 0.01
    assert under_torch["two inferences"] == 0
    assert under_torch["training without dropout"] <= 1e-5


def test_fitting_lowers_the_loss(under_torch: dict[str, Any]) -> None:
    """A few epochs learn a simple task and change every variable."""
    losses = under_torch["losses"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert under_torch["unmoved"] == []
