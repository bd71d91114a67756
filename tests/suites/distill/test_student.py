"""The packed student computes what the backbone computes, and packs what it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.student import Student, pack
from model.architecture import Architecture
from model.backbone import FNetBackbone

LENGTHS = (1, 2, 5, 12, 3, 7, 16, 1)


@pytest.fixture(scope="module", params=[12, 13], ids=["even hidden size", "odd hidden size"])
def backbone(request: pytest.FixtureRequest) -> FNetBackbone:
    """A tiny network with weights large enough to matter."""
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


def test_packed_is_what_each_text_gets_alone(backbone: FNetBackbone) -> None:
    """Both outputs of every text, in whatever company, are those of the backbone's own forward pass."""
    rows, count = pack(texts(), 16, 5)
    assert count == len(LENGTHS)
    with torch.no_grad():
        pooled, mean = Student(backbone, torch.float32).outputs(rows)
    for index, ids in enumerate(texts()):
        inputs = {"token_ids": np.array([ids], np.int32), "segment_ids": np.zeros((1, len(ids)), np.int32)}
        alone = backbone(inputs)
        torch.testing.assert_close(pooled[index], alone["pooled_output"][0].detach(), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(mean[index], alone["sequence_output"][0].mean(0).detach(), atol=2e-4, rtol=1e-4)


def test_gradients_are_those_of_the_backbone(backbone: FNetBackbone) -> None:
    """A loss on packed rows pulls at every variable exactly as the same loss on the backbone does."""
    student = Student(backbone, torch.float32)
    rows, _ = pack(texts(), 16, 5)
    student.outputs(rows)[0].square().sum().backward()
    packed = {name: variable.grad.clone() for name, variable in student.variables.items() if variable.grad is not None}
    for variable in student.variables.values():
        variable.grad = None
    inputs = [{"token_ids": torch.tensor([ids]), "segment_ids": torch.zeros(1, len(ids)).int()} for ids in texts()]
    sum(backbone(each, training=False)["pooled_output"].square().sum() for each in inputs).backward()
    for name, gradient in packed.items():
        if name.startswith("segment"):
            continue  # the packed student knows segment 0 only
        torch.testing.assert_close(gradient, student.variables[name].grad, atol=2e-4, rtol=2e-3)
    for variable in student.variables.values():
        variable.grad = None


def test_narrow_products_stay_near(backbone: FNetBackbone) -> None:
    """In bfloat16 the direction of every pooled output stays what it is."""
    rows, _ = pack(texts(), 16, 5)
    with torch.no_grad():
        wide, narrow = (Student(backbone, precision).outputs(rows)[0] for precision in (torch.float32, torch.bfloat16))
    assert torch.nn.functional.cosine_similarity(wide, narrow).min() > 0.98


def test_packing_keeps_order_and_says_what_fits() -> None:
    """Texts lie in rows without overlap; those beyond the last row are left for the next batch."""
    given = texts()
    rows, count = pack(given, 16, 2)
    assert 0 < count < len(given)
    flat = rows.token_ids.flatten()
    owners = rows.owners.flatten()
    for index, ids in enumerate(given[:count]):
        start = int(rows.firsts[index])
        assert flat[start : start + len(ids)].tolist() == ids
        assert (owners == index).sum() == len(ids)
    assert (owners == count).sum() == 32 - sum(LENGTHS[:count])
