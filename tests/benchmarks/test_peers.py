"""Comparison with peers without other libraries: workloads, weights, summaries and the report."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.activations import LayerStatistics, encode, int8_product, token_cosines
from benchmarks.peers.candidates import Candidate, Encode, in_batches, min_cosine
from benchmarks.peers.products import limits
from benchmarks.peers.report import Measured, Report, as_json, markdown, table
from benchmarks.peers.serving import Server, Window
from benchmarks.peers.serving import summarize as summarize_servers
from benchmarks.peers.timing import matching, measure, summarize
from benchmarks.peers.weights import (
    bundled_weights,
    mean_inputs,
    random_weights,
    trained_like_weights,
    write_hugging_face,
)
from benchmarks.peers.workloads import (
    MAX_BATCH_TEXTS,
    base_workloads,
    bert_flops,
    equal_batches,
    fnet_flops,
    input_order_batches,
    long_workloads,
    mixed_lengths,
    short_text,
    sorted_batches,
    token_ids,
)
from model.architecture import Architecture
from model.arrays import Float32s
from model.backbone import FNetBackbone
from model.conversion.hugging_face import read_hugging_face

WeightsMaker = Callable[[Architecture, int], dict[str, Float32s]]

BASE = Architecture(vocabulary_size=32_000, num_layers=12, hidden_dim=768, intermediate_dim=3072)
TINY = Architecture(vocabulary_size=40, num_layers=2, hidden_dim=12, intermediate_dim=20, max_sequence_length=16)
SMALL = Architecture(vocabulary_size=1000, num_layers=10, hidden_dim=256, intermediate_dim=1024)


# --- Workloads ---


def test_mixed_lengths_are_log_normal_clipped_and_deterministic() -> None:
    """The median is about 24 tokens, the minimum 5 and the maximum 200."""
    lengths = mixed_lengths(4096)
    assert lengths == mixed_lengths(4096)
    assert min(lengths) >= 5
    assert max(lengths) <= 200
    assert 22 <= np.median(lengths) <= 26


def test_workloads_have_the_lengths_in_their_names() -> None:
    """Single texts, a mixed batch of the requested size, a batch of long texts, and single long sequences."""
    workloads = {workload.name: workload for workload in [*base_workloads(64), *long_workloads()]}
    for length in (8, 32, 128, 512, 2048, 3001, 4096, 8192):
        assert workloads[f"1 x {length}"].lengths == (length,)
    assert len(workloads["64 mixed"].lengths) == 64
    assert workloads["16 x 512"].tokens == 16 * 512


def test_ids_are_words_of_the_vocabulary() -> None:
    """Each text has its length, and ids are neither special tokens nor beyond the vocabulary."""
    ids = token_ids((3, 200), 40)
    assert [len(text) for text in ids] == [3, 200]
    assert all(text.min() >= 5 and text.max() < 40 for text in ids)
    assert all(np.array_equal(one, other) for one, other in zip(ids, token_ids((3, 200), 40), strict=True))


def test_every_text_is_in_exactly_one_batch() -> None:
    """Sorted batches do not overlap in length, equal batches have one length each, and no batch is too large."""
    lengths = mixed_lengths(300)
    for batching in (sorted_batches, equal_batches, input_order_batches):
        batches = batching(lengths)
        assert sorted(index for members in batches for index in members) == list(range(300))
        assert max(len(members) for members in batches) <= MAX_BATCH_TEXTS
    assert all(len({lengths[index] for index in members}) == 1 for members in equal_batches(lengths))
    assert all(
        max(lengths[i] for i in one) <= min(lengths[i] for i in other)
        for one, other in pairwise(sorted_batches(lengths))
    )


def test_operations_are_counted_from_the_architecture() -> None:
    """Each weight counts two operations per token; attention counts, Fourier transforms do not."""
    dense = 12 * 2 * 2 * 768 * 3072 + 2 * 768 * 768
    assert fnet_flops(BASE, (100, 100)) == 2 * (100 * dense + 2 * 768 * 768)
    attention = 12 * (4 * 2 * 768 * 768 + 2 * 2 * 100 * 768)
    assert bert_flops(BASE, (100,)) == 100 * (12 * 4 * 768 * 3072 + attention) + 2 * 768 * 768


def test_short_texts_differ_and_are_deterministic() -> None:
    """Every number gives its own text of 4 to 16 words."""
    texts = [short_text(number) for number in range(200)]
    assert len(set(texts)) == 200
    assert texts[7] == short_text(7)
    assert all(4 <= len(text.split()) <= 16 for text in texts)


# --- Weights ---


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        SMALL,
        Architecture(
            vocabulary_size=500,
            num_layers=0,
            hidden_dim=401,
            intermediate_dim=8,
            max_sequence_length=700,
            num_segments=6,
        ),
    ],
)
@pytest.mark.parametrize("make", [random_weights, trained_like_weights])
def test_weights_fit_any_architecture_and_are_deterministic(architecture: Architecture, make: WeightsMaker) -> None:
    """Every variable has its name and shape; equal seeds give equal values, other seeds other values."""
    weights = make(architecture, 1)
    assert {name: values.shape for name, values in weights.items()} == architecture.variable_shapes()
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in weights.values())
    repeated, other = make(architecture, 1), make(architecture, 2)
    assert all(np.array_equal(values, repeated[name]) for name, values in weights.items())
    assert not np.array_equal(weights["token_embedding/embeddings"], other["token_embedding/embeddings"])


def test_both_formats_have_the_same_weights(tmp_path: Path) -> None:
    """Every value of the preset and of the Hugging Face checkpoint is equal."""
    weights = trained_like_weights(TINY)
    backbone = FNetBackbone.from_architecture(TINY)
    backbone.assign_weights(weights)
    backbone.save_to_preset(tmp_path / "preset")
    write_hugging_face(tmp_path / "hugging_face", TINY, weights)
    architecture, checkpoint = read_hugging_face(tmp_path / "hugging_face")
    preset = FNetBackbone.from_preset(tmp_path / "preset").named_weights()
    assert architecture == TINY
    for name, values in weights.items():
        np.testing.assert_array_equal(checkpoint[name], values)
        np.testing.assert_array_equal(preset[name], values)


def test_scale_of_products_is_that_of_the_preset() -> None:
    """Kernels compensate the number of summed inputs; outputs of the feed-forward layers shrink with depth."""
    source, trained = bundled_weights()
    weights = trained_like_weights(SMALL)
    for name, depth in (("intermediate_dense", 1.0), ("output_dense", source.num_layers / SMALL.num_layers)):
        kernel, expected = (variables[f"layers/0/{name}/kernel"] for variables in (weights, trained))
        assert kernel.std() * len(kernel) ** 0.5 == pytest.approx(
            expected.std() * len(expected) ** 0.5 * depth, rel=0.1
        )


def test_outlier_features_are_those_of_the_preset() -> None:
    """The last layer of the preset has its outlier in the last feature, the mirror image of feature 1."""
    source, trained = bundled_weights()
    for architecture, weights in ((source, trained), (SMALL, trained_like_weights(SMALL))):
        kernel = weights[f"layers/{architecture.num_layers - 1}/output_dense/kernel"]
        norms = np.linalg.norm(kernel, axis=0)
        assert norms.argmax() == architecture.hidden_dim - 1
        assert norms.max() > 6 * np.median(norms)


def test_tokens_share_a_component_and_differ_in_norm_as_in_the_preset() -> None:
    """The mean token is about a third of a token; special tokens are small, rare tokens large."""
    for weights in (bundled_weights()[1], trained_like_weights(SMALL)):
        tokens = weights["token_embedding/embeddings"]
        norms = np.linalg.norm(tokens, axis=1) / np.median(np.linalg.norm(tokens, axis=1))
        assert 0.25 < np.linalg.norm(tokens.mean(axis=0)) / np.median(np.linalg.norm(tokens, axis=1)) < 0.45
        assert norms.min() < 0.1
        assert norms.max() > 1.3


def test_mean_inputs_of_units_are_those_of_the_preset() -> None:
    """Most units are off and a few have large activations."""
    inputs, expected = (
        np.percentile(mean_inputs(weights, "layers/0"), [1, 50, 99])
        for weights in (trained_like_weights(SMALL), bundled_weights()[1])
    )
    np.testing.assert_allclose(inputs, expected, atol=1e-3)
    assert expected[1] < -1 < 1 < expected[2]


def test_activations_have_the_statistics_of_the_preset() -> None:
    """Outliers of the residual stream, sparse units and the effect of int8 rounding; random weights have none."""
    source, trained = bundled_weights()
    outliers, kurtoses, losses = {}, {}, {}
    for key, architecture, weights in (
        ("preset", source, trained),
        ("trained-like", SMALL, trained_like_weights(SMALL)),
        ("random", SMALL, random_weights(SMALL)),
    ):
        ids = token_ids([100], architecture.vocabulary_size)[0]
        outputs, layers = encode(architecture, weights, ids)
        outliers[key] = _median(layers, "outlier")
        kurtoses[key] = _median(layers, "inner_kurtosis")
        losses[key] = 1 - np.median(token_cosines(encode(architecture, weights, ids, int8_product)[0], outputs))
    assert outliers["preset"] / 3 < outliers["trained-like"] < outliers["preset"] * 3
    assert kurtoses["preset"] / 3 < kurtoses["trained-like"] < kurtoses["preset"] * 3
    assert losses["preset"] / 2 < losses["trained-like"] < losses["preset"] * 2
    assert outliers["random"] < 2
    assert losses["random"] < losses["preset"] / 2


def test_encode_computes_the_reference() -> None:
    """The statistics are those of the network that the backbone computes."""
    backbone = FNetBackbone.from_architecture(TINY)
    backbone.assign_weights(trained_like_weights(TINY))
    ids = token_ids([9], TINY.vocabulary_size)[0]
    expected, _ = backbone.encode_one(ids, np.zeros_like(ids))
    np.testing.assert_allclose(encode(TINY, backbone.named_weights(), ids)[0], expected, atol=1e-4)


def _median(layers: list[LayerStatistics], name: str) -> float:
    return float(statistics.median(getattr(layer, name) for layer in layers))


# --- Candidates ---


def test_candidate_names_are_unique_descriptions() -> None:
    """A name has the label, backend, dtype and variant."""

    def make() -> Encode:
        raise NotImplementedError

    assert Candidate("ours", "jax", "int8", make).name == "ours jax int8"
    assert Candidate("BERT", "torch", "float32", make, "padded").name == "BERT torch float32, padded"


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_padded_to_their_longest_text_and_unpadded(workers: int) -> None:
    """Each text's mean is over its own tokens, in input order, also where batches run in parallel."""
    shapes = []

    def run(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes.append(ids.shape)
        tokens = np.where(mask, ids, 999)[..., None].astype(np.float32)
        return tokens, tokens[:, 0]

    run_batches = in_batches(run, partial(sorted_batches, max_texts=4 // workers), workers)
    texts = [np.array(ids, np.int32) for ids in ([1, 2, 3], [7], [4, 6])]
    np.testing.assert_array_equal(run_batches(texts).vectors[..., 0], [[2, 1], [7, 7], [5, 4]])
    assert sorted(shapes) == ([(3, 3)] if workers == 1 else [(1, 3), (2, 2)])


def test_lowest_cosine_is_that_of_the_worst_vector() -> None:
    """The cosine depends on direction, not on length."""
    expected = np.array([[1, 0], [0, 2]], np.float32)
    assert min_cosine(expected * 3, expected) == pytest.approx(1)
    assert min_cosine(np.array([[1, 0], [1, 1]], np.float32), expected) == pytest.approx(0.5**0.5)


# --- Timing ---


def test_candidates_alternate_until_their_budget_is_spent() -> None:
    """All candidates run in alternating order; one out of budget skips later rounds, but not the first."""
    calls = []

    def call(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    candidates = {"fast": lambda: call("fast", 1), "slow": lambda: call("slow", 10)}
    seconds = measure(candidates, 3, 15, sleep=lambda _seconds: None)
    assert seconds == {"fast": [1, 1, 1], "slow": [10, 10]}
    assert calls == ["fast", "slow", "fast", "slow", "slow", "fast", "fast"]


def test_short_calls_are_repeated_within_a_turn() -> None:
    """A turn has twenty calls of 10 ms after a warm-up."""
    seconds = iter([0.01, 5.0, *[0.01] * 19, 0.02])
    assert measure({"short": lambda: next(seconds)}, 1, 60, sleep=lambda _seconds: None) == {"short": [0.01]}
    assert next(seconds, None) is None


def test_ratios_are_medians_of_the_rounds() -> None:
    """A slow round cancels out, only common rounds count, and parts of a workload are scaled up."""
    seconds = {"ours": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 2.5], "part": [1.0, 10.0]}
    summaries = summarize(seconds, "ours", {"part": 8.0})
    assert summaries["ours"].ratio == 1
    assert (summaries["theirs"].seconds, summaries["theirs"].ratio, summaries["theirs"].rounds) == (2.5, 2.0, 3)
    assert (summaries["part"].seconds, summaries["part"].ratio, summaries["part"].rounds) == (44.0, 8.0, 2)
    assert math.isnan(summarize(seconds, "missing")["ours"].ratio)


def test_words_select_names() -> None:
    """A name is selected if it contains any of the words; without a match, all names are selected."""
    names = ["ours jax float32", "ours jax bfloat16", "theirs"]
    assert matching(names, ["bfloat16", "theirs"]) == names[1:]
    assert matching(names, ["1 x 512"]) == names
    assert matching(names, []) == names


def test_servers_are_summarized_by_round() -> None:
    """Medians of the windows and of their ratios, latencies over all windows, and cosines within a network."""

    def server(label: str, weights: str, dtype: str) -> Server:
        return Server(label, weights, "torch", dtype, (), {}, "/", "m")

    servers = [server("ours", "a", "int8"), server("theirs", "b", "float32"), server("theirs", "b", "int8")]
    windows = {
        "ours torch int8": [Window(100, (0.1, 0.2)), Window(300, (0.3,))],
        "theirs torch float32": [Window(50, (0.4,)), Window(100, (0.4,))],
        "theirs torch int8": [Window(50, (0.4,))],
    }
    vectors = {name: np.eye(2, dtype=np.float32) for name in windows}
    vectors["theirs torch int8"] = np.array([[1, 0], [1, 1]], np.float32)
    ours, theirs, rounded = summarize_servers(servers, windows, vectors)
    assert (ours.requests, ours.ratio, ours.median, ours.windows, ours.cosine) == (200, 1, 0.2, 2, 1)
    assert theirs.requests == 75
    assert theirs.ratio == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (theirs.weights, theirs.backend, theirs.dtype, theirs.cosine) == ("b", "torch", "float32", 1)
    assert rounded.cosine == pytest.approx(0.5**0.5)


# --- Report ---


def test_limit_is_the_fastest_library_of_each_dtype() -> None:
    """The limit is the highest speed of any library."""
    speeds = {"a float32": 0.3, "b float32": 0.4, "a bfloat16": 2.0}
    assert limits(speeds) == {"bfloat16": 2.0, "float32": 0.4}


def test_tables_are_markdown() -> None:
    """A header, a rule that aligns numbers to the right, and a line for each row."""
    lines = table(("name", "speed"), [["a", "1"]], texts=1).splitlines()
    assert lines == ["| name | speed |", "| --- | ---: |", "| a | 1 |"]


def test_report_names_configurations_scaled_and_skipped_candidates() -> None:
    """Rows name weights, backend and dtype; parts, missing rounds and skipped candidates are named; NaN is null."""
    report = Report("title", rounds=7)
    report.machine = {"cpu": "a processor", "cores": 2, "instructions": ["amx_bf16"], "python": "3.11"}
    report.versions = {"torch": "1"}
    report.references = {"base": "ours"}
    report.products = {"a bfloat16": 2.0}
    mixed = partial(Measured, "base", "256 mixed", tokens=1000, flops=0.5e12)
    report.measured = [
        mixed("ours", "random", "jax", "bfloat16", seconds=0.5, ratio=1.0, rounds=7, cosine=0.5),
        mixed("theirs", "random", "torch", "float32", seconds=2.0, ratio=math.nan, rounds=3, cosine=1.0, part=32),
    ]
    report.served = [
        {"server": "ours", "weights": "w", "backend": "b", "dtype": "d", "requests": 1234.0, "ratio": 1.0}
        | {"median": 0.05, "slowest": 0.1, "cosine": math.nan}
    ]
    report.skipped = {"third": "no such library"}
    text = markdown(report)
    assert "### base: 256 mixed, 1,000 tokens" in text
    assert "| ours | random | jax | bfloat16 | 500.0 ms | 2,000 | 1.00 | 50% | 0.50000 |" in text
    assert "| theirs † 32 texts (3 of 7 rounds) | random | torch | float32 | 2,000.0 ms | 500 |  |  | 1.00000 |" in text
    assert "| ours | w | b | d | 1,234 | 1.00 | 50 ms | 100 ms |  |" in text
    assert "a processor, 2 cores (amx_bf16)" in text
    assert "* third: no such library" in text
    assert json.loads(as_json(report))["measured"][1]["ratio"] is None
