"""The batcher with integers as items, a manual clock and no model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import service.core.batcher
from service.core.batcher import LOOK_AHEAD_ITEMS, Batcher, Builder, Job
from service.core.errors import DeadlineExceededError, DrainingError, OverloadedError, WorkerFailedError
from tests.support.timeouts import TIMEOUT

ROW = 10

Make = Callable[..., Batcher[int, int, list[int]]]


@dataclass
class Clock:
    """A manual clock."""

    now: float = 100.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@dataclass
class FakeBatchBuilder:
    """Collects items up to the capacity of a row. The plan is the list of sizes.

    Attributes:
        capacity: Capacity of the row in tokens.
        sizes: Tokens of each item, in the order of addition.
    """

    capacity: int = ROW
    sizes: list[int] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no further item fits."""
        return sum(self.sizes) >= self.capacity

    def add(self, size: int) -> bool:
        """Add an item if it fits."""
        fits = sum(self.sizes) + size <= self.capacity
        if fits:
            self.sizes.append(size)
        return fits

    def build(self) -> list[int]:
        """Return the sizes."""
        return self.sizes


@dataclass
class Runner:
    """Runs a batch of integers: the result of an item is ten times the item.

    Attributes:
        failing: Items that make a batch fail.
        seconds: Duration of a run by the clock.
        clock: Clock that a run advances.
        blocked: Whether runs wait for `opened`.
        failure: Raised by every run, if present.
        batches: Batches in order.
        plans: Plans of the batches.
        entered: Set when a run has started.
        opened: Releases blocked runs.
    """

    failing: frozenset[int] = frozenset()
    seconds: float = 0.0
    clock: Clock = field(default_factory=Clock)
    blocked: bool = False
    failure: BaseException | None = None
    batches: list[list[int]] = field(default_factory=list)
    plans: list[list[int]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, plan: list[int], batch: list[int]) -> Sequence[int]:
        """Run a batch."""
        assert len(plan) == len(batch)
        self.batches.append(batch)
        self.plans.append(plan)
        self.entered.set()
        if self.blocked:
            assert self.opened.wait(TIMEOUT)
        self.clock.now += self.seconds
        if self.failure is not None:
            raise self.failure
        if self.failing.intersection(batch):
            raise ZeroDivisionError(f"one of {batch} is invalid")
        return [item * 10 for item in batch]


@pytest.fixture
def make() -> Iterator[Make]:
    """Create batchers and close them after the test."""
    created: list[tuple[Batcher[int, int, list[int]], Runner]] = []

    def make(
        runner: Runner,
        *,
        builder: Callable[[], Builder[list[int]]] = FakeBatchBuilder,
        max_queue_tokens: int = 1000,
        **options: Any,
    ) -> Batcher[int, int, list[int]]:
        batcher = Batcher[int, int, list[int]](
            runner, builder=builder, max_queue_tokens=max_queue_tokens, clock=runner.clock, **options
        )
        created.append((batcher, runner))
        return batcher

    yield make
    for batcher, runner in created:
        runner.opened.set()
        batcher.close()


def submit(
    batcher: Batcher[int, int, list[int]], *sizes: int, first: int = 0, timeout: float = math.inf
) -> Job[int, int]:
    """Submit items of the given sizes, numbered from `first`."""
    return batcher.submit(list(range(first, first + len(sizes))), sizes, timeout)


def result(job: Job[int, int]) -> list[int]:
    """Wait for the results of a job."""
    return job.future.result(timeout=TIMEOUT)


def error(job: Job[int, int]) -> BaseException | None:
    """Wait for the error of a job."""
    return job.future.exception(timeout=TIMEOUT)


def next_items(batcher: Batcher[int, int, list[int]]) -> list[int]:
    """Form a batch and return its items."""
    batch, plan = batcher.next_batch()
    assert plan == [entry.size for entry in batch]
    return [entry.item for entry in batch]


# === Forming a batch ===


def test_oldest_items_run_first(make: Make) -> None:
    """Items leave the queue in order of arrival."""
    batcher = make(Runner())
    for first in (1, 3, 5):
        submit(batcher, 3, 3, first=first)
    assert [next_items(batcher), next_items(batcher), next_items(batcher)] == [[1, 2, 3], [4, 5, 6], []]


def test_later_items_fill_the_rest_of_a_batch(make: Make) -> None:
    """An item that does not fit is skipped and stays at the front of the queue."""
    batcher = make(Runner())
    for first, size in enumerate([6, 7, 2, 5, 1, 1]):
        submit(batcher, size, first=first)
    assert [next_items(batcher), next_items(batcher), next_items(batcher)] == [[0, 2, 4, 5], [1], [3]]


def test_large_job_does_not_block_small_jobs(make: Make) -> None:
    """Small items fill the gaps in the rows of a large job."""
    batcher = make(Runner())
    submit(batcher, *[9] * 100, first=100)
    submit(batcher, 1, first=1)
    assert next_items(batcher) == [100, 1]


def test_small_jobs_do_not_starve_a_large_job(make: Make) -> None:
    """The oldest item is in the next batch, regardless of later items."""
    batcher = make(Runner())
    submit(batcher, 2, first=0)
    submit(batcher, ROW, first=1)
    for number in range(50):
        submit(batcher, 1, first=2 + number)
    assert 1 not in next_items(batcher)
    for number in range(50):
        submit(batcher, 1, first=100 + number)
    assert next_items(batcher) == [1]


def test_look_ahead_is_bounded(make: Make) -> None:
    """A batch examines a limited number of items that do not fit."""
    batcher = make(Runner(), max_queue_tokens=10**6)
    submit(batcher, 5, *[6] * (2 * LOOK_AHEAD_ITEMS))
    submit(batcher, 5, first=9999)
    assert next_items(batcher) == [0]


def test_run_receives_the_plan_of_its_items(make: Make) -> None:
    """The parts of a failed batch have plans of their own."""
    runner = Runner(failing=frozenset({1}))
    batcher = make(runner)
    jobs = [submit(batcher, size, first=first) for first, size in enumerate([5, 2, 3])]
    batcher.start()
    assert [error(job) is None for job in jobs] == [True, False, True]
    assert list(zip(runner.batches, runner.plans, strict=True)) == [
        ([0, 1, 2], [5, 2, 3]),
        ([0], [5]),
        ([1, 2], [2, 3]),
        ([1], [2]),
        ([2], [3]),
    ]


def test_part_of_a_failed_batch_may_need_several_runs(make: Make) -> None:
    """A part that does not fit into one run is split."""
    runner = Runner(failing=frozenset({0}))
    capacities = chain([8], repeat(4))
    batcher = make(runner, builder=lambda: FakeBatchBuilder(next(capacities)))
    jobs = [submit(batcher, 2, first=number) for number in range(4)]
    batcher.start()
    assert [error(job) is None for job in jobs] == [False, True, True, True]
    assert runner.batches == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]


def test_results_have_the_order_of_the_items(make: Make) -> None:
    """The order of the batches does not change the order of the results."""
    runner = Runner()
    batcher = make(runner)
    job = submit(batcher, 4, 9, 3, 8, 2, 10, 1)
    batcher.start()
    assert result(job) == [0, 10, 20, 30, 40, 50, 60]
    assert len(runner.batches) > 3
    assert runner.batches[0] == [0, 2, 4, 6]


def test_job_that_fits_one_row_runs_in_one_batch(make: Make) -> None:
    """A job that fits into one row needs one run."""
    runner = Runner()
    batcher = make(runner)
    job = submit(batcher, 5, 5)
    batcher.start()
    assert result(job) == [0, 10]
    assert runner.batches == [[0, 1]]


def test_jobs_submitted_during_a_run_share_the_next_batch(make: Make) -> None:
    """The first job runs at once; all jobs submitted during its run form one batch."""
    runner = Runner(blocked=True)
    batcher = make(runner)
    batcher.start()
    first = submit(batcher, 1, first=0)
    assert runner.entered.wait(TIMEOUT)
    later = [submit(batcher, 1, first=number) for number in range(1, 6)]
    runner.opened.set()
    assert [result(job) for job in [first, *later]] == [[0], [10], [20], [30], [40], [50]]
    assert runner.batches == [[0], [1, 2, 3, 4, 5]]


# === Admission ===


def test_job_is_queued_completely_or_not_at_all(make: Make) -> None:
    """A rejected job leaves no items in the queue, and a smaller job still fits."""
    batcher = make(Runner(), max_queue_tokens=20)
    submit(batcher, 10, 5)
    with pytest.raises(OverloadedError):
        submit(batcher, 5, 1)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (15, 1)
    submit(batcher, 5, first=7)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (20, 2)


def test_rejection_estimates_the_time_until_a_retry(make: Make) -> None:
    """The estimate uses the measured speed and is rounded up to seconds."""
    runner = Runner(seconds=2.0)
    batcher = make(runner, max_queue_tokens=40)
    jobs = [submit(batcher, 10), submit(batcher, 10)]
    batcher.start()
    for job in jobs:
        result(job)  # 5 tokens/s
    runner.blocked = True
    runner.entered.clear()
    submit(batcher, 10)
    assert runner.entered.wait(TIMEOUT)
    submit(batcher, 10, 10, 10, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 7, 6)
    assert caught.value.retry_after == 3  # 13 tokens over the limit at 5 tokens/s


def test_small_batches_do_not_change_the_measured_speed(make: Make) -> None:
    """Batches that empty the queue do not predict the speed of full batches."""
    runner = Runner(seconds=2.0)
    batcher = make(runner, max_queue_tokens=40, tokens_per_second=5.0)
    batcher.start()
    for _ in range(20):
        result(submit(batcher, 1))
    runner.blocked = True
    runner.entered.clear()
    submit(batcher, 1)
    assert runner.entered.wait(TIMEOUT)
    submit(batcher, 10, 10, 10, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 7, 6)
    assert caught.value.retry_after == 3


def test_retry_after_without_a_measured_speed_is_one_second(make: Make) -> None:
    """A value of 0 would cause immediate retries."""
    batcher = make(Runner(), max_queue_tokens=10)
    submit(batcher, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 10)
    assert caught.value.retry_after == 1


def test_retry_after_is_at_most_a_minute(make: Make) -> None:
    """A low speed does not raise the estimate further."""
    batcher = make(Runner(), max_queue_tokens=10, tokens_per_second=1e-3)
    submit(batcher, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 10)
    assert caught.value.retry_after == 60


def test_running_items_do_not_count_against_the_queue(make: Make) -> None:
    """A batch frees the tokens of its items."""
    batcher = make(Runner(), max_queue_tokens=20)
    submit(batcher, 10, 10)
    assert next_items(batcher) == [0]
    assert batcher.queue_tokens == 10
    submit(batcher, 10)
    assert batcher.queue_tokens == 20


def test_cancelled_job_frees_its_queued_tokens(make: Make) -> None:
    """Queued items leave the queue even if other items of the job run."""
    batcher = make(Runner(), max_queue_tokens=20)
    job = submit(batcher, 10, 5, 5)
    assert next_items(batcher) == [0]
    assert batcher.queue_tokens == 10
    batcher.cancel(job)
    batcher.cancel(job)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)
    assert next_items(batcher) == []


def test_expired_job_frees_its_queued_tokens(make: Make) -> None:
    """Expired jobs leave the queue when the next batch is formed."""
    runner = Runner()
    batcher = make(runner, max_queue_tokens=20)
    submit(batcher, 10, 10, timeout=1.0)
    runner.clock.now += 1.0
    assert next_items(batcher) == []
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)


# === Expiry and cancellation ===


def test_expired_job_does_not_run(make: Make) -> None:
    """The job fails, and the batch contains only the other job."""
    runner = Runner()
    batcher = make(runner)
    late = submit(batcher, 5, first=1, timeout=2.0)
    other = submit(batcher, 5, first=2, timeout=3.0)
    runner.clock.now += 2.5
    batcher.start()
    assert isinstance(error(late), DeadlineExceededError)
    assert result(other) == [20]
    assert runner.batches == [[2]]


def test_job_may_expire_between_its_batches(make: Make) -> None:
    """Available results are discarded, and the other items do not run."""
    runner = Runner(seconds=2.0)
    batcher = make(runner)
    job = submit(batcher, 10, 10, timeout=1.0)
    batcher.start()
    assert isinstance(error(job), DeadlineExceededError)
    assert runner.batches == [[0]]


def test_cancelled_job_does_not_run(make: Make) -> None:
    """A disconnected client costs no compute."""
    runner = Runner()
    batcher = make(runner)
    cancelled = submit(batcher, 5, first=1)
    batcher.cancel(cancelled)
    other = submit(batcher, 5, first=2)
    batcher.start()
    assert result(other) == [20]
    assert runner.batches == [[2]]
    with pytest.raises(CancelledError):
        result(cancelled)


def test_cancelling_a_running_job_does_not_affect_others(make: Make) -> None:
    """The result is discarded, and other jobs of the batch get their results."""
    runner = Runner(blocked=True)
    batcher = make(runner)
    cancelled, other = submit(batcher, 4, first=1), submit(batcher, 4, first=2)
    batcher.start()
    assert runner.entered.wait(TIMEOUT)
    batcher.cancel(cancelled)
    runner.opened.set()
    assert result(other) == [20]
    assert batcher.alive


# === Failures ===


def test_failing_item_fails_only_its_job(make: Make) -> None:
    """A failed batch is split down to the failing item; other jobs get their results."""
    runner = Runner(failing=frozenset({5}))
    batcher = make(runner)
    jobs = [submit(batcher, 1, first=number) for number in range(8)]
    batcher.start()
    assert isinstance(error(jobs[5]), ZeroDivisionError)
    assert [result(job) for number, job in enumerate(jobs) if number != 5] == [[n * 10] for n in range(8) if n != 5]
    # One run of 8, then two halves at each of three levels.
    assert len(runner.batches) == 1 + 2 * 3


def test_batch_that_exceeds_the_memory_is_split(make: Make) -> None:
    """Items that fit into memory on their own get their results."""

    def run(_plan: list[int], batch: list[int]) -> list[int]:
        if len(batch) > 1:
            raise MemoryError
        return [item * 10 for item in batch]

    batcher = Batcher[int, int, list[int]](run, builder=FakeBatchBuilder, max_queue_tokens=100)
    jobs = [submit(batcher, 2, first=number) for number in range(5)]
    batcher.start()
    assert [result(job) for job in jobs] == [[number * 10] for number in range(5)]
    assert batcher.alive
    batcher.close()


def test_failing_item_fails_all_items_of_its_job(make: Make) -> None:
    """Queued items of the failed job do not run."""
    runner = Runner(failing=frozenset({1}))
    batcher = make(runner)
    job = submit(batcher, 4, 4, 10, 10)
    other = submit(batcher, 2, first=7)
    batcher.start()
    assert isinstance(error(job), ZeroDivisionError)
    assert result(other) == [70]
    assert result(submit(batcher, 1, first=8)) == [80]
    assert not {2, 3} & {item for batch in runner.batches for item in batch}


def test_failing_items_have_separate_errors(make: Make) -> None:
    """Each failing job gets its own error, and the worker stays alive."""
    runner = Runner(failing=frozenset({0, 3}))
    batcher = make(runner)
    jobs = [submit(batcher, 1, first=number) for number in range(4)]
    batcher.start()
    assert [error(job) is None for job in jobs] == [False, True, True, False]
    assert error(jobs[0]) is not error(jobs[3])
    assert batcher.alive


@pytest.mark.parametrize("backend_fails", [False, True])
def test_failing_canary_fails_the_worker(make: Make, backend_fails: bool) -> None:  # noqa: FBT001 - a case
    """The canary distinguishes a failing item from a failing backend."""
    canary = 77
    runner = Runner(failing=frozenset({0, canary} if backend_fails else {0}))
    batcher = make(runner, canary=canary)
    jobs = [submit(batcher, 1, first=number) for number in range(2)]
    batcher.start()
    assert isinstance(error(jobs[0]), WorkerFailedError if backend_fails else ZeroDivisionError)
    assert isinstance(error(jobs[1]), WorkerFailedError if backend_fails else type(None))
    assert [canary] in runner.batches
    if backend_fails:
        with pytest.raises(WorkerFailedError):
            submit(batcher, 1)
    else:
        assert batcher.alive


def test_fail_during_a_run_fails_all_jobs(make: Make) -> None:
    """The failure is reported once; the number of the run does not change."""
    runner = Runner(blocked=True)
    failures: list[BaseException] = []
    batcher = make(runner, on_failure=failures.append)
    assert batcher.run is None
    batcher.start()
    jobs = [submit(batcher, 10)]
    assert runner.entered.wait(TIMEOUT)
    jobs += [submit(batcher, 10)]
    assert batcher.run == batcher.run == 1
    reason = RuntimeError("the run does not end")
    for _ in range(2):
        batcher.fail(reason)
    assert all(isinstance(error(job), WorkerFailedError) for job in jobs)
    assert failures == [reason]
    assert (batcher.alive, batcher.stuck) == (False, True)
    batcher.close()  # returns without waiting for the run
    assert batcher.stuck


def test_failure_of_the_worker_fails_all_jobs(make: Make) -> None:
    """Running and queued jobs fail, the failure is reported once, and new jobs are rejected."""
    runner = Runner(blocked=True, failure=SystemExit("the worker ends"))
    failures: list[BaseException] = []
    reported = threading.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        reported.set()

    batcher = make(runner, on_failure=on_failure)
    batcher.start()
    jobs = [submit(batcher, 10)]
    assert runner.entered.wait(TIMEOUT)
    jobs += [submit(batcher, 10), submit(batcher, 5, 10)]
    assert batcher.alive
    runner.opened.set()
    for job in jobs:
        failure = error(job)
        assert isinstance(failure, WorkerFailedError)
        assert failure.retry_after
    assert reported.wait(TIMEOUT)
    assert failures == [runner.failure]
    assert not batcher.alive
    assert batcher.queue_tokens == 0
    with pytest.raises(WorkerFailedError):
        submit(batcher, 1)


def test_missing_results_fail_the_worker(make: Make) -> None:
    """A result must never reach the job of another client."""
    failed = threading.Event()
    batcher = Batcher[int, int, list[int]](
        lambda _plan, batch: batch[:-1],
        builder=FakeBatchBuilder,
        max_queue_tokens=100,
        on_failure=lambda _error: failed.set(),
    )
    jobs = [submit(batcher, 1, first=1), submit(batcher, 1, first=2)]
    batcher.start()
    assert failed.wait(TIMEOUT)
    assert isinstance(error(jobs[1]), WorkerFailedError)


# === Shared items ===


def test_equal_queued_items_are_computed_once(make: Make) -> None:
    """Equal items of one or several jobs share a result, in the order of the items."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    jobs = [batcher.submit(items, [2] * len(items)) for items in ([1, 2], [2, 3], [3, 3, 1])]
    assert batcher.queue_tokens == 6
    assert batcher.queue_jobs == 3
    batcher.start()
    assert [result(job) for job in jobs] == [[10, 20], [20, 30], [30, 30, 10]]
    assert runner.batches == [[1, 2, 3]]


def test_running_item_serves_new_jobs(make: Make) -> None:
    """A full queue does not reject a job whose items already run."""
    runner = Runner(blocked=True)
    batcher = make(runner, max_queue_tokens=10, key=lambda item: item)
    batcher.start()
    first = batcher.submit([1], [10])
    assert runner.entered.wait(TIMEOUT)
    batcher.submit([2], [10])
    second = batcher.submit([1], [10])
    assert second.queue_seconds == 0.0
    runner.opened.set()
    assert (result(first), result(second)) == ([10], [10])
    assert runner.batches[0] == [1]
    assert [1] not in runner.batches[1:]


def test_tokens_of_shared_items_are_bounded(make: Make) -> None:
    """Cancelled and completed jobs free their share of the bound."""
    runner = Runner()
    batcher = make(runner, max_queue_tokens=10, key=lambda item: item, tokens_per_second=2.0)
    jobs = [batcher.submit([1, 2], [5, 5]) for _ in range(8)]
    with pytest.raises(
        OverloadedError, match="80 requested tokens wait for shared results and this request adds 5; the maximum is 80"
    ) as caught:
        batcher.submit([1], [5])
    assert caught.value.retry_after == 5  # 10 queued tokens at 2 tokens/s
    batcher.cancel(jobs.pop())
    jobs += [batcher.submit([1], [5]) for _ in range(2)]
    batcher.start()
    assert [result(job) for job in jobs] == [[10, 20]] * 7 + [[10]] * 2
    further = [batcher.submit([1, 2], [5, 5]) for _ in range(8)]
    assert all(result(job) == [10, 20] for job in further)


def test_completed_items_are_not_shared(make: Make) -> None:
    """The batcher shares items in flight and does not cache results."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    batcher.start()
    assert [result(batcher.submit([1], [1])) for _ in range(2)] == [[10], [10]]
    assert runner.batches == [[1], [1]]


def test_cancelled_job_does_not_affect_jobs_with_equal_items(make: Make) -> None:
    """Expiry and cancellation remove an item only if no other job waits for it."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    cancelled = batcher.submit([1, 2], [3, 4])
    late = batcher.submit([1], [3], timeout=1.0)
    other = batcher.submit([1], [3])
    batcher.cancel(cancelled)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (3, 2)
    runner.clock.now += 2.0
    batcher.start()
    assert result(other) == [10]
    assert isinstance(error(late), DeadlineExceededError)
    assert runner.batches == [[1]]


@pytest.mark.parametrize("way", ["cancel", "expire"])
def test_cost_of_cancellation_is_linear(make: Make, way: str) -> None:
    """Removing a job does not iterate over other waiters of shared items."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item, max_queue_tokens=10**6)
    items = [*range(1_000), *[1] * 1_000]
    jobs = [batcher.submit(items, [1] * 2_000, timeout=1.0) for _ in range(10)]
    visited = 0

    class Counted(dict[Job[int, int], list[int]]):
        def __iter__(self) -> Iterator[Job[int, int]]:
            nonlocal visited
            visited += len(self)
            return super().__iter__()

    for entry in batcher._shareable.values():
        entry.waiters = Counted(entry.waiters)
    if way == "cancel":
        for job in jobs:
            batcher.cancel(job)
    else:
        runner.clock.now += 2.0
        assert next_items(batcher) == []
    assert visited <= len(jobs)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)


def test_failing_item_fails_all_jobs_that_share_it(make: Make) -> None:
    """Other jobs succeed, and a later job with an equal item gets a new run."""
    runner = Runner(failing=frozenset({1}))
    batcher = make(runner, key=lambda item: item)
    jobs = [batcher.submit([item], [1]) for item in (1, 2, 1)]
    batcher.start()
    assert [isinstance(error(job), ZeroDivisionError) for job in jobs] == [True, False, True]
    runner.failing = frozenset()
    assert result(batcher.submit([1], [1])) == [10]


# === Different outputs of one sequence ===

# An item consists of the number of a sequence and one bit per requested output.
FIRST, SECOND = 0b01, 0b10


def sequence(number: int, outputs: int) -> int:
    """Return an item for outputs of a sequence."""
    return number << 2 | outputs


def key_of(item: int) -> int:
    """Return the sequence of an item."""
    return item >> 2


def merge(one: int, other: int) -> int:
    """Return the item with the outputs of both."""
    return one if one | other == one else one | other


def test_queued_item_is_merged_to_serve_both_jobs(make: Make) -> None:
    """The merged item runs once, with the outputs of both jobs."""
    runner = Runner()
    batcher = make(runner, key=key_of, merge=merge)
    jobs = [batcher.submit([sequence(1, outputs)], [3]) for outputs in (FIRST, SECOND, FIRST)]
    assert (batcher.queue_tokens, batcher.queue_jobs) == (3, 3)
    batcher.start()
    merged = sequence(1, FIRST | SECOND)
    assert [result(job) for job in jobs] == [[merged * 10]] * 3
    assert runner.batches == [[merged]]


def test_running_item_with_all_outputs_is_shared(make: Make) -> None:
    """A full queue does not reject a job for fewer outputs than the run computes."""
    runner = Runner(blocked=True)
    batcher = make(runner, key=key_of, merge=merge, max_queue_tokens=10)
    batcher.start()
    running = sequence(1, FIRST | SECOND)
    first = batcher.submit([running], [10])
    assert runner.entered.wait(TIMEOUT)
    batcher.submit([sequence(2, FIRST)], [10])
    second = batcher.submit([sequence(1, SECOND)], [10])
    assert (second.waiting, batcher.queue_jobs) == (0, 1)
    runner.opened.set()
    assert result(first) == result(second) == [running * 10]
    assert [running] not in runner.batches[1:]


def test_running_item_without_an_output_is_not_shared(make: Make) -> None:
    """The missing output needs another run and counts as queued tokens."""
    runner = Runner(blocked=True)
    batcher = make(runner, key=key_of, merge=merge, max_queue_tokens=10)
    batcher.start()
    first = batcher.submit([sequence(1, FIRST)], [6])
    assert runner.entered.wait(TIMEOUT)
    second = batcher.submit([sequence(1, SECOND)], [6])
    assert (second.waiting, batcher.queue_tokens) == (1, 6)
    with pytest.raises(OverloadedError):
        batcher.submit([sequence(2, FIRST)], [6])
    runner.opened.set()
    assert result(first) == [sequence(1, FIRST) * 10]
    assert result(second) == [sequence(1, SECOND) * 10]
    assert runner.batches == [[sequence(1, FIRST)], [sequence(1, SECOND)]]


def test_queued_item_is_shared_after_an_equal_run_has_ended(make: Make) -> None:
    """The end of a run does not remove a queued entry with the same key."""
    runner = Runner()
    batcher = make(runner, key=key_of, merge=merge)
    first = batcher.submit([sequence(1, FIRST)], [3])
    running = batcher.next_batch()
    second = batcher.submit([sequence(1, SECOND)], [3])
    batcher._execute(*running)
    third = batcher.submit([sequence(1, FIRST)], [3])
    assert batcher.queue_tokens == 3
    batcher.start()
    assert result(first) == [sequence(1, FIRST) * 10]
    assert result(second) == result(third) == [sequence(1, FIRST | SECOND) * 10]


def test_failure_of_a_merged_item_fails_all_its_jobs(make: Make) -> None:
    """All jobs of a merged item share its run and its error."""
    runner = Runner(failing=frozenset({sequence(1, FIRST | SECOND)}))
    batcher = make(runner, key=key_of, merge=merge)
    jobs = [batcher.submit([sequence(1, outputs)], [3]) for outputs in (FIRST, SECOND)]
    other = batcher.submit([sequence(2, FIRST)], [3])
    batcher.start()
    assert [type(error(job)) for job in jobs] == [ZeroDivisionError] * 2
    assert result(other) == [sequence(2, FIRST) * 10]


@given(
    jobs=st.lists(
        st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 7)), min_size=1, max_size=25
    )
)
def test_results_contain_the_requested_outputs(jobs: list[tuple[list[int], int]]) -> None:
    """The property holds for arbitrary sequences, outputs and concurrent jobs."""
    batcher = Batcher[int, int, list[int]](
        lambda _plan, batch: batch,
        builder=FakeBatchBuilder,
        max_queue_tokens=10**6,
        key=lambda item: item >> 3,
        merge=merge,
    )
    submitted: list[tuple[list[int], Job[int, int]]] = []
    for position, (sequences, outputs) in enumerate(jobs):
        if position == len(jobs) // 2:
            batcher.start()
        items = [number << 3 | outputs for number in sequences]
        submitted.append((items, batcher.submit(items, [1 + item // 16 for item in items])))
    for items, job in submitted:
        for item, served in zip(items, result(job), strict=True):
            assert (served >> 3, served & item) == (item >> 3, item)
    batcher.close()
    assert (batcher.queue_tokens, batcher.queue_jobs, batcher._shareable) == (0, 0, {})


# === Shutdown ===


def test_drain_finishes_accepted_jobs_and_rejects_new_ones(make: Make) -> None:
    """Running and queued jobs complete."""
    runner = Runner(blocked=True)
    batcher = make(runner)
    batcher.start()
    running = submit(batcher, 10, first=1)
    assert runner.entered.wait(TIMEOUT)
    waiting = submit(batcher, 10, 10, first=2)
    batcher.drain()
    with pytest.raises(DrainingError) as caught:
        submit(batcher, 1)
    assert caught.value.retry_after
    assert not batcher.idle
    runner.opened.set()
    assert result(running) == [10]
    assert result(waiting) == [20, 30]


def test_batcher_is_idle_without_queued_and_running_items(make: Make) -> None:
    """A running item keeps the batcher busy."""
    runner = Runner(blocked=True)
    batcher = make(runner)
    assert batcher.idle
    submit(batcher, 1)
    assert not batcher.idle
    batcher.start()
    assert runner.entered.wait(TIMEOUT)
    assert (batcher.queue_jobs, batcher.idle) == (0, False)
    runner.opened.set()
    batcher.drain()
    # `close` joins the worker thread.
    batcher.close()
    assert batcher.idle


def test_close_fails_queued_jobs(make: Make) -> None:
    """Queued jobs fail, and the worker ends after the current batch."""
    runner = Runner(blocked=True)
    batcher = make(runner)
    batcher.start()
    submit(batcher, 10, first=1)
    assert runner.entered.wait(TIMEOUT)
    waiting = submit(batcher, 10, first=2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert isinstance(error(waiting), DrainingError)
    runner.opened.set()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert not batcher.alive
    assert runner.batches == [[1]]
    with pytest.raises(DrainingError):
        submit(batcher, 1)


def test_last_run_that_does_not_end_fails_the_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` waits for a limited time and reports the failure."""
    monkeypatch.setattr(service.core.batcher, "_SHUTDOWN_GRACE_SECONDS", 0.05)
    runner = Runner(blocked=True)
    failures: list[BaseException] = []
    batcher = make(runner, on_failure=failures.append)
    batcher.start()
    job = submit(batcher, 10)
    assert runner.entered.wait(TIMEOUT)
    batcher.close()
    assert isinstance(error(job), DrainingError)
    assert [str(failure) for failure in failures] == ["the last run has not ended within 0.05 seconds"]
    assert (batcher.alive, batcher.stuck) == (False, True)


@pytest.mark.parametrize("before", [True, False])
def test_skip_shutdown_wait_ends_the_wait_for_the_last_run(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """The worker does not count as failed."""
    monkeypatch.setattr(service.core.batcher, "_SHUTDOWN_GRACE_SECONDS", 10 * TIMEOUT)
    runner = Runner(blocked=True)
    failures: list[BaseException] = []
    batcher = make(runner, on_failure=failures.append)
    batcher.start()
    submit(batcher, 10)
    assert runner.entered.wait(TIMEOUT)
    if before:
        batcher.skip_shutdown_wait()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    batcher.skip_shutdown_wait()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert failures == []
    assert batcher.stuck


def test_close_before_start_fails_queued_jobs(make: Make) -> None:
    """Queued jobs fail even if the worker was never started."""
    batcher = make(Runner())
    job = submit(batcher, 1)
    batcher.close()
    assert isinstance(error(job), DrainingError)


# === Timings ===


def test_job_measures_queue_and_compute_time(make: Make) -> None:
    """Queue time ends with the start of the first run; compute time sums the runs of the job."""
    runner = Runner(seconds=2.0)
    batcher = make(runner)
    first, second = submit(batcher, 10, 10, first=1), submit(batcher, 10, first=3)
    assert first.queue_seconds == 0.0
    runner.clock.now += 5.0
    batcher.start()
    assert (result(first), result(second)) == ([10, 20], [30])
    assert (first.queue_seconds, first.compute_seconds) == (5.0, 4.0)
    assert (second.queue_seconds, second.compute_seconds) == (9.0, 2.0)


# === Properties ===


@given(
    jobs=st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=6), min_size=1, max_size=25),
    row=st.integers(16, 40),
    failing=st.sets(st.integers(0, 60), max_size=3),
)
def test_each_item_succeeds_once_and_no_row_overflows(jobs: list[list[int]], row: int, failing: set[int]) -> None:
    """Jobs without failing items get their results in order; other jobs get an error."""
    sizes = [size for job in jobs for size in job]
    succeeded: list[int] = []

    def run(plan: list[int], batch: list[int]) -> list[int]:
        assert plan == [sizes[item] for item in batch]
        assert sum(plan) <= row
        if failing.intersection(batch):
            raise ZeroDivisionError
        succeeded.extend(batch)
        return [item * 10 for item in batch]

    batcher = Batcher[int, int, list[int]](run, builder=lambda: FakeBatchBuilder(row), max_queue_tokens=sum(sizes))
    submitted: list[tuple[list[int], Future[list[int]]]] = []
    first = 0
    for number, job in enumerate(jobs):
        if number == len(jobs) // 2:
            batcher.start()  # the first half is queued; the second half arrives while batches run
        items = list(range(first, first + len(job)))
        submitted.append((items, batcher.submit(items, job).future))
        first += len(job)
    for items, future in submitted:
        if failing.intersection(items):
            assert isinstance(future.exception(timeout=TIMEOUT), ZeroDivisionError)
        else:
            assert future.result(timeout=TIMEOUT) == [item * 10 for item in items]
    batcher.close()
    assert len(succeeded) == len(set(succeeded))
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)
