"""Several devices, which JAX simulates: rows are divided among them, with mixing on the devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

DTYPES = ("float32", "bfloat16")
# On CPUs the encoder mixes on the host, so the test selects the backend for accelerators.
PROGRAM = """
import json, sys
import numpy as np
import model.encoder
from model.architecture import Architecture
from model.backends.jax_backend import JaxDeviceBackend
from model.encoder import ALL_OUTPUTS, EncoderInput, NonFiniteOutputError, PackedEncoder, TokenSequence
from model.reference import encode_one, random_weights
from model.selftest import compile_and_verify, is_accurate

model.encoder.backend_type = lambda _name: JaxDeviceBackend
compilations = []
JaxDeviceBackend.on_compilation(lambda: compilations.append(1))
architecture = Architecture(
    vocabulary_size=100, num_layers=2, hidden_dim=128, intermediate_dim=192, max_sequence_length=80
)
weights = random_weights(architecture, 0)
random = np.random.default_rng(1)

def sequence(n):
    return TokenSequence(random.integers(0, 100, n).astype(np.int32), random.integers(0, 4, n).astype(np.int32))

def reference(tokens):
    return encode_one(architecture, weights, *tokens)

def bits(encoding):
    return [encoding.arrays[name].tobytes().hex() for name in sorted(ALL_OUTPUTS)]

sequences = [sequence(n) for n in random.integers(1, 17, 40)]
long = [sequence(n) for n in (17, 61, 80)]
report = {}
for dtype in sys.argv[1:]:
    encoder = PackedEncoder(architecture, weights, dtype=dtype, max_batch_tokens=16)
    verified = compile_and_verify(encoder, reference)
    before = len(compilations)
    alone = [encoder.encode([tokens])[0] for tokens in sequences + long]
    together = encoder.encode(sequences + long)
    mixed = encoder.encode([*long, sequences[0]])
    builder = encoder.batch_builder()
    added = [index for index, tokens in enumerate(sequences) if builder.add(len(tokens.token_ids))]
    plan = builder.build()
    ran = encoder.run(plan, [EncoderInput(sequences[index], ALL_OUTPUTS) for index in added])
    report[dtype] = {
        "devices": encoder.devices,
        "rows_per_run": encoder.rows_per_run,
        "rows": len(plan.rows),
        "invariant": verified.batch_invariant,
        "numerics": verified.numerics,
        "compilations": len(compilations) - before,
        "accurate": all(
            is_accurate(encoding, reference(tokens), dtype)
            for tokens, encoding in zip(sequences + long, together, strict=True)
        ),
        "alone": [bits(encoding) for encoding in alone],
        "together": [bits(encoding) for encoding in together],
        "mixed": [bits(encoding) for encoding in mixed],
        "added": added,
        "ran": [bits(encoding) for encoding in ran],
    }
weights["token_embedding/embeddings"][99] = np.nan
encoder = PackedEncoder(architecture, weights, max_batch_tokens=8)
encoder.compile()
try:
    encoder.encode([TokenSequence(np.full(8, id, np.int32), np.zeros(8, np.int32)) for id in (1, 2, 3, 99)])
    report["not_finite"] = False
except NonFiniteOutputError:
    report["not_finite"] = True
print(json.dumps(report))
"""


def run_with(devices: int) -> dict[str, Any]:
    """Return what the program reports with a number of simulated devices."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", PROGRAM, *DTYPES]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture(scope="module")
def one_device() -> dict[str, Any]:
    """The report with one device."""
    return run_with(1)


@pytest.fixture(scope="module")
def four_devices() -> dict[str, Any]:
    """The report with four devices."""
    return run_with(4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_divided_among_devices(four_devices: dict[str, Any], one_device: dict[str, Any], dtype: str) -> None:
    """A run takes one row per device, and each device has a name."""
    for report, devices in ((four_devices[dtype], 4), (one_device[dtype], 1)):
        assert report["rows_per_run"] == report["rows"] == devices
        assert len(set(report["devices"])) == devices


@pytest.mark.parametrize("dtype", DTYPES)
def test_devices_are_accurate(four_devices: dict[str, Any], dtype: str) -> None:
    """Short sequences, and those of several chunks, are within the dtype's bounds of the reference."""
    assert four_devices[dtype]["accurate"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_equal_on_one_device_and_on_several(
    four_devices: dict[str, Any], one_device: dict[str, Any], dtype: str
) -> None:
    """Bits do not depend on the rows of other devices, also for sequences of several chunks."""
    four, one = four_devices[dtype], one_device[dtype]
    assert four["invariant"]
    assert one["invariant"]
    assert four["together"] == four["alone"] == one["alone"] == one["together"]
    assert four["ran"] == [four["alone"][index] for index in four["added"]]
    assert four["mixed"] == [*four["alone"][-3:], four["alone"][0]]
    assert four["numerics"] == one["numerics"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_compiled_after_compile(four_devices: dict[str, Any], dtype: str) -> None:
    """Rows of any length run compiled programs on any number of devices."""
    assert four_devices[dtype]["compilations"] == 0


def test_output_of_any_device_that_is_not_finite_is_an_error(four_devices: dict[str, Any]) -> None:
    """NaN in the fourth row is not returned."""
    assert four_devices["not_finite"]
