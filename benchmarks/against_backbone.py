"""Compare the packed encoder with the plain Keras backbone, in one run, alternating, by medians.

    .venv/bin/python benchmarks/against_backbone.py [--rounds 9] [--layers 12 --hidden 768 --intermediate 3072]

The backbone gets its best case: float32, compiled as one program, batches of equal length, nothing padded. Weights are
random, which changes no time. Prints tokens/s, and each encoder's ratio to the backbone, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.backends.base import Dtype
from model.encoder import PackedEncoder, Tokens

WORKLOADS = ((16, 32), (1, 512), (1, 32))
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def main() -> None:
    """Run every workload and print a line for each contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("rounds", 9),
        ("layers", 12),
        ("hidden", 768),
        ("intermediate", 3072),
        ("vocabulary", 32000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    architecture = Architecture(
        vocabulary_size=arguments.vocabulary,
        num_layers=arguments.layers,
        hidden_dim=arguments.hidden,
        intermediate_dim=arguments.intermediate,
    )
    backbone = FNetBackbone.from_architecture(architecture)
    plain = compiled(backbone)
    encoders = {}
    for dtype in DTYPES:
        encoders[dtype] = PackedEncoder(architecture, backbone.named_weights(), dtype=dtype)
        encoders[dtype].compile()
    random = np.random.default_rng(0)
    for batch, length in WORKLOADS:
        ids = random.integers(0, arguments.vocabulary, (batch, length)).astype(np.int32)
        zeros = np.zeros_like(ids)
        sequences = [Tokens(*pair) for pair in zip(ids, zeros, strict=True)]
        contenders: dict[str, Callable[[], Any]] = {"backbone float32": partial(plain, ids, zeros)}
        for dtype, encoder in encoders.items():
            contenders[f"packed {dtype}"] = partial(encoder.encode, sequences)
        report(f"{batch} x {length} tokens", batch * length, measure(contenders, arguments.rounds))


def compiled(backbone: FNetBackbone) -> Callable[[Any, Any], Any]:
    """Return the backbone's inference as one compiled program."""
    call = jax.jit(lambda values, rest, inputs: backbone.stateless_call(values, rest, inputs, training=False)[0])
    values = [variable.value for variable in backbone.trainable_variables]
    rest = [variable.value for variable in backbone.non_trainable_variables]

    def run(ids: Any, segments: Any) -> Any:
        return np.asarray(call(values, rest, {"token_ids": ids, "segment_ids": segments})["sequence_output"])

    return run


def measure(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return seconds of every round; contenders take turns, so that a change of the machine's speed meets all."""
    for call in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def report(workload: str, tokens: int, seconds: dict[str, list[float]]) -> None:
    """Print medians, and the median of the rounds' ratios to the first contender."""
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True))
        print(f"{workload:16} {name:18} {median * 1e3:8.1f} ms {tokens / median:8.0f} tokens/s  x {ratio:.2f}")


if __name__ == "__main__":
    main()
