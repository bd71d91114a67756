"""The parts of `make bench-peers` that need no other library: what is encoded, how it is summed up and shown."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.peers.contenders import in_batches, least_cosine
from benchmarks.peers.products import limits
from benchmarks.peers.report import Measured, Report, as_json, markdown, table
from benchmarks.peers.serving import Window
from benchmarks.peers.serving import summarize as summarize_servers
from benchmarks.peers.timing import chosen, measure, summarize
from benchmarks.peers.workloads import (
    MOST_TEXTS,
    bert_flops,
    equal_batches,
    fnet_flops,
    mixed_lengths,
    one_by_count,
    short_text,
    sorted_batches,
    token_ids,
    workloads,
)
from model.architecture import Architecture

BASE = Architecture(vocabulary_size=32_000, num_layers=12, hidden_dim=768, intermediate_dim=3072)


class Clock:
    """A clock that moves when something is called or slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


# --- Workloads ---


def test_mixed_lengths_are_log_normal_clipped_and_always_the_same() -> None:
    """Half of the texts have at most some 24 tokens, none fewer than 5 or more than 200."""
    lengths = mixed_lengths(4096)
    assert lengths == mixed_lengths(4096)
    assert min(lengths) >= 5
    assert max(lengths) <= 200
    assert 22 <= np.median(lengths) <= 26


def test_workloads_have_the_lengths_that_their_names_say() -> None:
    """One text at a time, a mixed batch of the size asked for, and a batch of long texts."""
    found = {each.name: each for each in workloads(64)}
    assert [found[f"1 x {length}"].lengths for length in (8, 32, 128, 512)] == [(8,), (32,), (128,), (512,)]
    assert len(found["64 mixed"].lengths) == 64
    assert found["16 x 512"].tokens == 16 * 512


def test_ids_are_words_of_the_vocabulary() -> None:
    """Each text has its length, and its ids are neither special nor beyond the vocabulary."""
    ids = token_ids((3, 200), 40)
    assert [len(text) for text in ids] == [3, 200]
    assert all(text.min() >= 5 and text.max() < 40 for text in ids)
    assert all(np.array_equal(one, other) for one, other in zip(ids, token_ids((3, 200), 40), strict=True))


def test_every_text_is_in_one_batch() -> None:
    """Sorted batches are neighbours in length, equal ones have one length, and none is too large."""
    lengths = mixed_lengths(300)
    for batching in (sorted_batches, equal_batches, one_by_count):
        batches = batching(lengths)
        assert sorted(index for members in batches for index in members) == list(range(300))
        assert max(len(members) for members in batches) <= MOST_TEXTS
    assert all(len({lengths[index] for index in members}) == 1 for members in equal_batches(lengths))
    assert all(
        max(lengths[i] for i in one) <= min(lengths[i] for i in other)
        for one, other in pairwise(sorted_batches(lengths))
    )


def test_operations_are_counted_from_the_architecture() -> None:
    """Two operations for each weight and token, and the transforms or the attention on top."""
    dense = 12 * 2 * 2 * 768 * 3072 + 2 * 768 * 768
    assert fnet_flops(BASE, (100,), []) == 100 * dense + 2 * 768 * 768
    along = 12 * 2 * 100 * 768
    assert fnet_flops(BASE, (100, 100), ["row"]) == 2 * (100 * (dense + along) + 2 * 768 * 768)
    both = 12 * 768 * 768 + along
    assert fnet_flops(BASE, (100, 100), ["hidden", "row"]) == 2 * (100 * (dense + both) + 2 * 768 * 768)
    attention = 12 * (4 * 2 * 768 * 768 + 2 * 2 * 100 * 768)
    assert bert_flops(BASE, (100,)) == 100 * (12 * 4 * 768 * 3072 + attention) + 2 * 768 * 768


def test_short_texts_differ_and_come_back() -> None:
    """Every number has a text of 4 to 16 words, and always the same one."""
    texts = [short_text(number) for number in range(200)]
    assert len(set(texts)) == 200
    assert texts[7] == short_text(7)
    assert all(4 <= len(text.split()) <= 16 for text in texts)


# --- Contenders ---


def test_batches_are_padded_to_their_longest_and_unpadded_again() -> None:
    """Each text's mean is over its own tokens, in the order asked for."""
    shapes = []

    def run(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shapes.append(ids.shape)
        tokens = np.where(mask, ids, 999)[..., None].astype(np.float32)
        return tokens, tokens[:, 0]

    encode = in_batches(run, sorted_batches)
    texts = [np.array(ids, np.int32) for ids in ([1, 2, 3], [7], [4, 6])]
    np.testing.assert_array_equal(encode(texts)[..., 0], [[2, 1], [7, 7], [5, 4]])
    assert shapes == [(3, 3)]


def test_the_least_cosine_is_that_of_the_worst_vector() -> None:
    """Length does not matter, direction does."""
    wanted = np.array([[1, 0], [0, 2]], np.float32)
    assert least_cosine(wanted * 3, wanted) == pytest.approx(1)
    assert least_cosine(np.array([[1, 0], [1, 1]], np.float32), wanted) == pytest.approx(0.5**0.5)


# --- Timing ---


def test_contenders_take_turns_until_their_budget_is_spent() -> None:
    """All are called in every round, there and back, and who is slow leaves early but never without a round."""
    clock, calls = Clock(), []

    def call(name: str, seconds: float) -> None:
        calls.append(name)
        clock.advance(seconds)

    contenders = {"fast": lambda: call("fast", 1), "slow": lambda: call("slow", 10)}
    seconds = measure(contenders, 3, 15, clock=clock, sleep=clock.advance)
    assert seconds == {"fast": pytest.approx([1, 1, 1]), "slow": pytest.approx([10, 10])}
    assert calls == ["fast", "slow", "fast", "slow", "slow", "fast", "fast"]


def test_short_calls_are_repeated_within_a_turn() -> None:
    """A turn of calls of 10 ms has twenty of them, and one before to warm up."""
    clock = Clock()
    calls = []

    def call() -> None:
        calls.append(clock.now)
        clock.advance(0.01)

    assert measure({"short": call}, 1, 60, clock=clock, sleep=clock.advance) == {"short": [pytest.approx(0.01)]}
    assert len(calls) == 1 + 1 + 20


def test_ratios_are_medians_of_the_rounds() -> None:
    """A slow round of the machine cancels out, rounds that only one was in are left out, and parts are scaled up."""
    seconds = {"ours": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 2.5], "part": [1.0, 10.0]}
    found = summarize(seconds, "ours", {"part": 8.0})
    assert found["ours"].ratio == 1
    assert (found["theirs"].seconds, found["theirs"].ratio, found["theirs"].rounds) == (2.5, 2.0, 3)
    assert (found["part"].seconds, found["part"].ratio, found["part"].rounds) == (44.0, 8.0, 2)
    assert math.isnan(summarize(seconds, "nobody")["ours"].ratio)


def test_words_choose_names() -> None:
    """Any word that is in a name chooses it; words that mean other things leave all."""
    names = ["ours jax float32", "ours jax bfloat16", "theirs"]
    assert chosen(names, ["bfloat16", "theirs"]) == names[1:]
    assert chosen(names, ["1 x 512"]) == names
    assert chosen(names, []) == names


def test_servers_are_summed_up_alike() -> None:
    """Medians of the windows and of their ratios, and latencies over all windows."""
    windows = {
        "ours": [Window(100, (0.1, 0.2)), Window(300, (0.3,))],
        "theirs": [Window(50, (0.4,)), Window(100, (0.4,))],
    }
    ours, theirs = summarize_servers(windows, "ours")
    assert (ours.requests, ours.ratio, ours.median, ours.windows) == (200, 1, 0.2, 2)
    assert theirs.requests == 75
    assert theirs.ratio == pytest.approx((1 / 2 + 1 / 3) / 2)


# --- Report ---


def test_the_limit_is_the_best_library() -> None:
    """Of each dtype, whichever library reached it."""
    speeds = {"a float32": 0.3, "b float32": 0.4, "a bfloat16": 2.0}
    assert limits(speeds) == {"bfloat16": 2.0, "float32": 0.4}


def test_tables_are_markdown() -> None:
    """A header, a rule that aligns numbers to the right, and a line for each row."""
    assert table(("name", "speed"), [["a", "1"]]).splitlines() == ["| name | speed |", "| --- | ---: |", "| a | 1 |"]


def test_the_report_says_what_was_scaled_or_left_out() -> None:
    """Parts, fewer rounds and contenders that did not run are named; what is no number is null in JSON."""
    report = Report("title", reference="ours", rounds=7)
    report.machine = {"cpu": "a processor", "cores": 2, "instructions": ["amx_bf16"], "python": "3.11"}
    report.versions = {"torch": "1"}
    report.products = {"a bfloat16": 2.0}
    report.measured = [
        Measured("256 mixed", "ours", 0.5, 1000, 1.0, 7, 0.5e12, "bfloat16"),
        Measured("256 mixed", "theirs", 2.0, 1000, math.nan, 3, 0.5e12, "float32", part=32),
    ]
    report.agreement = {"ours": 1.0}
    report.skipped = {"third": "no such library"}
    text = markdown(report)
    assert "| ours | 500.0 ms | 2,000 | 1.00 | 50% |" in text
    assert "| theirs † 32 texts (3 rounds) | 2,000.0 ms | 500 |  |  |" in text
    assert "a processor, 2 cores (amx_bf16)" in text
    assert "* third: no such library" in text
    assert json.loads(as_json(report))["measured"][1]["ratio"] is None
