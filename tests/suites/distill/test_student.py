"""The packed student computes the same outputs as the backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.training.student import Student, pack
from model.architecture import Architecture
from model.backbone import FNetBackbone

LENGTHS = (1, 2, 5, 12, 3, 7, 16, 1)


@pytest.fixture(scope="module", params=[12, 13], ids=["even hidden size", "odd hidden size"])
def backbone(request: pytest.FixtureRequest) -> FNetBackbone:
    """A tiny network with random weights."""
    architecture = Architecture(
        vocabulary_size=40, num_layers=2, hidden_dim=request.param, intermediate_dim=20, max_sequence_length=24
    )
    random = np.random.default_rng(0)
    network = FNetBackbone.from_architecture(architecture, dtype="float32")
    network.assign_weights(
        {
            name: (random.normal(size=shape) * 0.3 + name.endswith("gamma")).astype(np.float32)
            for name, shape in architecture.variable_shapes().items()
        }
    )
    return network


def texts() -> list[list[int]]:
    """Return sequences of different lengths."""
    random = np.random.default_rng(1)
    return [random.integers(0, 40, length).tolist() for length in LENGTHS]


def test_packed_outputs_equal_the_backbones(backbone: FNetBackbone) -> None:
    """Both outputs of every text equal those of the backbone for the text alone."""
    rows, count = pack(texts(), 16, 5)
    assert count == len(LENGTHS)
    with torch.no_grad():
        pooled, mean = Student(backbone, torch.float32).outputs(rows)
    for index, ids in enumerate(texts()):
        inputs = {"token_ids": np.array([ids], np.int32), "segment_ids": np.zeros((1, len(ids)), np.int32)}
        expected = backbone(inputs)
        torch.testing.assert_close(pooled[index], expected["pooled_output"][0].detach(), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(mean[index], expected["sequence_output"][0].mean(0).detach(), atol=2e-4, rtol=1e-4)


def test_packed_gradients_equal_the_backbones(backbone: FNetBackbone) -> None:
    """A loss on packed rows has the same gradients as the same loss on the backbone."""
    student = Student(backbone, torch.float32)
    rows, _ = pack(texts(), 16, 5)
    student.outputs(rows)[0].square().sum().backward()
    packed = {name: variable.grad.clone() for name, variable in student.variables.items() if variable.grad is not None}
    for variable in student.variables.values():
        variable.grad = None
    inputs = [{"token_ids": torch.tensor([ids]), "segment_ids": torch.zeros(1, len(ids)).int()} for ids in texts()]
    sum(backbone(features, training=False)["pooled_output"].square().sum() for features in inputs).backward()
    for name, gradient in packed.items():
        if name.startswith("segment"):
            continue  # the packed student uses segment 0 only
        torch.testing.assert_close(gradient, student.variables[name].grad, atol=2e-4, rtol=2e-3)
    for variable in student.variables.values():
        variable.grad = None


def test_bfloat16_products_preserve_the_direction(backbone: FNetBackbone) -> None:
    """The pooled outputs in bfloat16 have a cosine of more than 0.98 to those in float32."""
    rows, _ = pack(texts(), 16, 5)
    with torch.no_grad():
        outputs = [Student(backbone, dtype).outputs(rows)[0] for dtype in (torch.float32, torch.bfloat16)]
    assert torch.nn.functional.cosine_similarity(*outputs).min() > 0.98


def test_pack_preserves_order_and_returns_the_count() -> None:
    """Texts do not overlap; texts that do not fit remain for the next batch."""
    sequences = texts()
    rows, count = pack(sequences, 16, 2)
    assert 0 < count < len(sequences)
    flat = rows.token_ids.flatten()
    owners = rows.owners.flatten()
    for index, ids in enumerate(sequences[:count]):
        start = int(rows.first_token_index[index])
        assert flat[start : start + len(ids)].tolist() == ids
        assert (owners == index).sum() == len(ids)
    assert (owners == count).sum() == 32 - sum(LENGTHS[:count])
