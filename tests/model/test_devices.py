"""Several devices: each row runs on one of them, and no bit tells which."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import numpy as np
from model.architecture import Architecture
from model.encoder import PackedEncoder, Tokens
from model.plain import encode_one, random_weights
from model.selftest import prepare

architecture = Architecture(
    vocabulary_size=100, num_layers=2, hidden_dim=384, intermediate_dim=256, max_sequence_length=64
)
weights = random_weights(architecture, 0)
encoder = PackedEncoder(architecture, weights, dtype=sys.argv[1], most_tokens=64)
report = prepare(encoder, lambda tokens: encode_one(architecture, weights, *tokens))
random = np.random.default_rng(1)
sequences = [
    Tokens(random.integers(0, 100, n).astype(np.int32), np.zeros(n, np.int32)) for n in random.integers(1, 65, 40)
]
batch = encoder.open_batch()
taken = [tokens for tokens in sequences if batch.place(len(tokens.token_ids))]
ran, room = encoder.run_batch(taken)
ran += encoder.encode(sequences)
print(json.dumps({
    "devices": len(encoder.devices),
    "rows": len(batch.rows(encoder.rows)),
    "room": room,
    "invariant": report.batch_invariant,
    "bits": [[e.sequence_output.tobytes().hex()[:400], e.pooled_output.tobytes().hex()] for e in ran],
    "taken": len(taken),
    "order": [next(i for i, s in enumerate(sequences) if s is tokens) for tokens in taken],
}))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_divided_among_devices_and_bits_are_the_same(dtype: str) -> None:
    """Four devices, here simulated, run four rows at once; every sequence gets the bits that one device gives it."""
    found = {}
    for devices in (1, 4):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, "-c", PROGRAM, dtype]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        found[devices] = json.loads(ended.stdout)
    for devices, report in found.items():
        assert report["devices"] == report["rows"] == devices
        assert report["room"] == 64 * devices
        assert report["invariant"]
    one, four = found[1]["bits"][found[1]["taken"] :], found[4]["bits"][found[4]["taken"] :]
    assert one == four
    assert [four[index] for index in found[4]["order"]] == found[4]["bits"][: found[4]["taken"]]
