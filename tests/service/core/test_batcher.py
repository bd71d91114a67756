"""The queue and its worker, with integers for sequences, a hand on the clock, and no model anywhere."""

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
    """A clock that stands still until it is moved."""

    now: float = 100.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@dataclass
class FakeBatchBuilder:
    """Collects items whose tokens add up to a row at most; its plan is their sizes.

    Attributes:
        capacity: Tokens of the row.
        sizes: Tokens of each item, in the order of addition.
    """

    capacity: int = ROW
    sizes: list[int] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no further item fits."""
        return sum(self.sizes) >= self.capacity

    def add(self, size: int) -> bool:
        """Add an item, if it fits."""
        fits = sum(self.sizes) + size <= self.capacity
        if fits:
            self.sizes.append(size)
        return fits

    def build(self) -> list[int]:
        """Return the sizes."""
        return self.sizes


@dataclass
class Runner:
    """Runs a batch of integers: each becomes its tenfold.

    Attributes:
        guilty: Integers with which a batch fails.
        seconds: What a run takes by the clock.
        clock: The clock that it takes it from.
        held: Whether runs wait for `opened`.
        death: Raised by every run, if set.
        batches: The batches that came, in order.
        plans: The plan of each.
        entered: Set when a batch has come.
        opened: Lets runs that are held go on.
    """

    guilty: frozenset[int] = frozenset()
    seconds: float = 0.0
    clock: Clock = field(default_factory=Clock)
    held: bool = False
    death: BaseException | None = None
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
        if self.held:
            assert self.opened.wait(TIMEOUT)
        self.clock.now += self.seconds
        if self.death is not None:
            raise self.death
        if self.guilty.intersection(batch):
            raise ZeroDivisionError(f"one of {batch} is guilty")
        return [item * 10 for item in batch]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make a batcher, closed at the end of the test."""
    made: list[tuple[Batcher[int, int, list[int]], Runner]] = []

    def make(
        runner: Runner,
        *,
        builder: Callable[[], Builder[list[int]]] = FakeBatchBuilder,
        most: int = 1000,
        **options: Any,
    ) -> Batcher[int, int, list[int]]:
        batcher = Batcher[int, int, list[int]](
            runner, builder=builder, max_queue_tokens=most, clock=runner.clock, **options
        )
        made.append((batcher, runner))
        return batcher

    yield make
    for batcher, runner in made:
        runner.opened.set()
        batcher.close()


def submit(
    batcher: Batcher[int, int, list[int]], *sizes: int, first: int = 0, timeout: float = math.inf
) -> Job[int, int]:
    """Submit items of the given sizes, numbered from `first`."""
    return batcher.submit(list(range(first, first + len(sizes))), sizes, timeout)


def result(job: Job[int, int]) -> list[int]:
    """Wait for a job's results."""
    return job.future.result(timeout=TIMEOUT)


def error(job: Job[int, int]) -> BaseException | None:
    """Wait for what a job failed with."""
    return job.future.exception(timeout=TIMEOUT)


def taken(batcher: Batcher[int, int, list[int]]) -> list[int]:
    """Form a batch, and return its items."""
    batch, plan = batcher.next_batch()
    assert plan == [entry.size for entry in batch]
    return [entry.item for entry in batch]


# === Forming a batch ===


def test_the_oldest_goes_first(make: Make) -> None:
    """Items leave in the order of their arrival, job by job."""
    batcher = make(Runner())
    for first in (1, 3, 5):
        submit(batcher, 3, 3, first=first)
    assert [taken(batcher), taken(batcher), taken(batcher)] == [[1, 2, 3], [4, 5, 6], []]


def test_room_that_the_oldest_leave_goes_to_whoever_fits(make: Make) -> None:
    """What does not fit is stepped over, not waited for, and keeps its place at the front."""
    batcher = make(Runner())
    for first, size in enumerate([6, 7, 2, 5, 1, 1]):
        submit(batcher, size, first=first)
    assert [taken(batcher), taken(batcher), taken(batcher)] == [[0, 2, 4, 5], [1], [3]]


def test_a_big_job_does_not_shut_out_small_ones(make: Make) -> None:
    """A job of a hundred full rows leaves the gaps of its last row, and every gap before, to others."""
    batcher = make(Runner())
    submit(batcher, *[9] * 100, first=100)
    submit(batcher, 1, first=1)
    assert taken(batcher) == [100, 1]


def test_small_ones_do_not_shut_out_a_big_one(make: Make) -> None:
    """However many small jobs come, the oldest is in the very next batch."""
    batcher = make(Runner())
    submit(batcher, 2, first=0)
    submit(batcher, ROW, first=1)
    for number in range(50):
        submit(batcher, 1, first=2 + number)
    assert 1 not in taken(batcher)
    for number in range(50):
        submit(batcher, 1, first=100 + number)
    assert taken(batcher) == [1]


def test_looking_ahead_is_bounded(make: Make) -> None:
    """A crowd of items that do not fit is not searched to its end while the lock is held."""
    batcher = make(Runner(), most=10**6)
    submit(batcher, 5, *[6] * (2 * LOOK_AHEAD_ITEMS))
    submit(batcher, 5, first=9999)
    assert taken(batcher) == [0]


def test_run_gets_the_plan_of_its_items(make: Make) -> None:
    """The plan that formed the batch is the one that runs, also for the parts of a batch that failed."""
    runner = Runner(guilty=frozenset({1}))
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
    """A part is planned anew: it need not fit one run."""
    runner = Runner(guilty=frozenset({0}))
    capacities = chain([8], repeat(4))
    batcher = make(runner, builder=lambda: FakeBatchBuilder(next(capacities)))
    jobs = [submit(batcher, 2, first=number) for number in range(4)]
    batcher.start()
    assert [error(job) is None for job in jobs] == [False, True, True, True]
    assert runner.batches == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]


def test_a_job_of_many_rows_keeps_its_order(make: Make) -> None:
    """Results come in the order of the items, whichever batches ran them in which order."""
    runner = Runner()
    batcher = make(runner)
    job = submit(batcher, 4, 9, 3, 8, 2, 10, 1)
    batcher.start()
    assert result(job) == [0, 10, 20, 30, 40, 50, 60]
    assert len(runner.batches) > 3
    assert runner.batches[0] == [0, 2, 4, 6]


def test_a_job_without_deadline_or_row_trouble_runs_in_one_batch(make: Make) -> None:
    """What fits one row is one run."""
    runner = Runner()
    batcher = make(runner)
    job = submit(batcher, 5, 5)
    batcher.start()
    assert result(job) == [0, 10]
    assert runner.batches == [[0, 1]]


def test_what_gathers_during_a_run_goes_in_the_next_batch(make: Make) -> None:
    """No timer: the first runs at once and alone, and all that came meanwhile runs together."""
    runner = Runner(held=True)
    batcher = make(runner)
    batcher.start()
    first = submit(batcher, 1, first=0)
    assert runner.entered.wait(TIMEOUT)
    others = [submit(batcher, 1, first=number) for number in range(1, 6)]
    runner.opened.set()
    assert [result(job) for job in [first, *others]] == [[0], [10], [20], [30], [40], [50]]
    assert runner.batches == [[0], [1, 2, 3, 4, 5]]


# === Admission ===


def test_a_job_enters_whole_or_not_at_all(make: Make) -> None:
    """A refused job leaves nothing behind, and a smaller one still fits."""
    batcher = make(Runner(), most=20)
    submit(batcher, 10, 5)
    with pytest.raises(OverloadedError):
        submit(batcher, 5, 1)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (15, 1)
    submit(batcher, 5, first=7)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (20, 2)


def test_a_refusal_says_when_to_come_back(make: Make) -> None:
    """Seconds until so many tokens have left, by the speed of the runs so far, rounded up."""
    runner = Runner(seconds=2.0)
    batcher = make(runner, most=40)
    jobs = [submit(batcher, 10), submit(batcher, 10)]
    batcher.start()
    for job in jobs:
        result(job)  # 5 tokens a second
    runner.held = True
    runner.entered.clear()
    submit(batcher, 10)
    assert runner.entered.wait(TIMEOUT)
    submit(batcher, 10, 10, 10, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 7, 6)
    assert caught.value.retry_after == 3  # 13 tokens too many, at 5 a second


def test_a_quiet_time_does_not_make_a_refusal_lie(make: Make) -> None:
    """Small runs that left nobody waiting say nothing of how fast a queue empties: what is known of full ones holds."""
    runner = Runner(seconds=2.0)
    batcher = make(runner, most=40, tokens_per_second=5.0)
    batcher.start()
    for _ in range(20):
        result(submit(batcher, 1))
    runner.held = True
    runner.entered.clear()
    submit(batcher, 1)
    assert runner.entered.wait(TIMEOUT)
    submit(batcher, 10, 10, 10, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 7, 6)
    assert caught.value.retry_after == 3


def test_without_a_measured_speed_a_refusal_says_a_second(make: Make) -> None:
    """Nothing is invented, and 0 would invite a storm."""
    batcher = make(Runner(), most=10)
    submit(batcher, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 10)
    assert caught.value.retry_after == 1


def test_nobody_is_sent_away_for_hours(make: Make) -> None:
    """However slow the runs, a client is to look again within a minute."""
    batcher = make(Runner(), most=10, tokens_per_second=1e-3)
    submit(batcher, 10)
    with pytest.raises(OverloadedError) as caught:
        submit(batcher, 10)
    assert caught.value.retry_after == 60


def test_tokens_are_free_again_when_a_batch_takes_them(make: Make) -> None:
    """Only what waits counts against the queue."""
    batcher = make(Runner(), most=20)
    submit(batcher, 10, 10)
    assert taken(batcher) == [0]
    assert batcher.queue_tokens == 10
    submit(batcher, 10)
    assert batcher.queue_tokens == 20


def test_tokens_are_free_again_when_a_job_is_withdrawn(make: Make) -> None:
    """Its waiting items leave, in part where the others already run."""
    batcher = make(Runner(), most=20)
    job = submit(batcher, 10, 5, 5)
    assert taken(batcher) == [0]
    assert batcher.queue_tokens == 10
    batcher.cancel(job)
    batcher.cancel(job)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)
    assert taken(batcher) == []


def test_tokens_are_free_again_when_a_deadline_passes(make: Make) -> None:
    """The expired leave when the next batch is formed."""
    runner = Runner()
    batcher = make(runner, most=20)
    submit(batcher, 10, 10, timeout=1.0)
    runner.clock.now += 1.0
    assert taken(batcher) == []
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)


# === Leaving early ===


def test_an_expired_job_never_runs(make: Make) -> None:
    """Its waiter is told, and the batch goes to those who still wait."""
    runner = Runner()
    batcher = make(runner)
    late = submit(batcher, 5, first=1, timeout=2.0)
    patient = submit(batcher, 5, first=2, timeout=3.0)
    runner.clock.now += 2.5
    batcher.start()
    assert isinstance(error(late), DeadlineExceededError)
    assert result(patient) == [20]
    assert runner.batches == [[2]]


def test_a_job_may_expire_between_its_batches(make: Make) -> None:
    """What ran is dropped, and the rest does not run."""
    runner = Runner(seconds=2.0)
    batcher = make(runner)
    job = submit(batcher, 10, 10, timeout=1.0)
    batcher.start()
    assert isinstance(error(job), DeadlineExceededError)
    assert runner.batches == [[0]]


def test_a_withdrawn_job_never_runs(make: Make) -> None:
    """A client that left costs no compute."""
    runner = Runner()
    batcher = make(runner)
    gone = submit(batcher, 5, first=1)
    batcher.cancel(gone)
    stayed = submit(batcher, 5, first=2)
    batcher.start()
    assert result(stayed) == [20]
    assert runner.batches == [[2]]
    with pytest.raises(CancelledError):
        result(gone)


def test_withdrawing_what_runs_harms_nobody(make: Make) -> None:
    """Its result is dropped, and its neighbours get theirs."""
    runner = Runner(held=True)
    batcher = make(runner)
    gone, stayed = submit(batcher, 4, first=1), submit(batcher, 4, first=2)
    batcher.start()
    assert runner.entered.wait(TIMEOUT)
    batcher.cancel(gone)
    runner.opened.set()
    assert result(stayed) == [20]
    assert batcher.alive


# === Failing ===


def test_a_guilty_item_fails_alone(make: Make) -> None:
    """A batch that fails is split until one item is left: its job fails, the neighbours get their results."""
    runner = Runner(guilty=frozenset({5}))
    batcher = make(runner)
    jobs = [submit(batcher, 1, first=number) for number in range(8)]
    batcher.start()
    assert isinstance(error(jobs[5]), ZeroDivisionError)
    assert [result(job) for number, job in enumerate(jobs) if number != 5] == [[n * 10] for n in range(8) if n != 5]
    # A run of 8, then both halves at each of three depths.
    assert len(runner.batches) == 1 + 2 * 3


def test_running_out_of_memory_is_survived(make: Make) -> None:
    """A batch too large for the machine is split; what fits by itself gets its result."""

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


def test_a_guilty_item_fails_its_whole_job(make: Make) -> None:
    """A request is answered whole; its other items do not run where they had not yet."""
    runner = Runner(guilty=frozenset({1}))
    batcher = make(runner)
    job = submit(batcher, 4, 4, 10, 10)
    other = submit(batcher, 2, first=7)
    batcher.start()
    assert isinstance(error(job), ZeroDivisionError)
    assert result(other) == [70]
    assert result(submit(batcher, 1, first=8)) == [80]
    assert not {2, 3} & {item for batch in runner.batches for item in batch}


def test_several_guilty_items_fail_several_jobs(make: Make) -> None:
    """Each gets its own error, and the worker lives on."""
    runner = Runner(guilty=frozenset({0, 3}))
    batcher = make(runner)
    jobs = [submit(batcher, 1, first=number) for number in range(4)]
    batcher.start()
    assert [error(job) is None for job in jobs] == [False, True, True, False]
    assert error(jobs[0]) is not error(jobs[3])
    assert batcher.alive


@pytest.mark.parametrize("machine_fails", [False, True])
def test_the_items_are_not_blamed_for_the_machine(make: Make, machine_fails: bool) -> None:  # noqa: FBT001 - a case
    """What fails alone is compared with an item that is known to run; where that fails, too, the worker dies."""
    canary = 77
    runner = Runner(guilty=frozenset({0, canary} if machine_fails else {0}))
    batcher = make(runner, canary=canary)
    jobs = [submit(batcher, 1, first=number) for number in range(2)]
    batcher.start()
    assert isinstance(error(jobs[0]), WorkerFailedError if machine_fails else ZeroDivisionError)
    assert isinstance(error(jobs[1]), WorkerFailedError if machine_fails else type(None))
    assert [canary] in runner.batches
    if machine_fails:
        with pytest.raises(WorkerFailedError):
            submit(batcher, 1)
    else:
        assert batcher.alive


def test_a_worker_whose_run_does_not_end_can_be_given_up(make: Make) -> None:
    """All who wait are told, once; the run has a number by which to see that it is still the same."""
    runner = Runner(held=True)
    deaths: list[BaseException] = []
    batcher = make(runner, on_failure=deaths.append)
    assert batcher.run is None
    batcher.start()
    jobs = [submit(batcher, 10)]
    assert runner.entered.wait(TIMEOUT)
    jobs += [submit(batcher, 10)]
    assert batcher.run == batcher.run == 1
    reason = RuntimeError("it does not end")
    for _ in range(2):
        batcher.fail(reason)
    assert all(isinstance(error(job), WorkerFailedError) for job in jobs)
    assert deaths == [reason]
    assert (batcher.alive, batcher.stuck) == (False, True)
    batcher.close()  # does not wait for it
    assert batcher.stuck


def test_a_dead_worker_leaves_nobody_waiting(make: Make) -> None:
    """All who run or wait are told, its death is reported once, and nobody is let in any more."""
    runner = Runner(held=True, death=SystemExit("the worker ends"))
    deaths: list[BaseException] = []
    reported = threading.Event()

    def on_failure(error: BaseException) -> None:
        deaths.append(error)
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
    assert deaths == [runner.death]
    assert not batcher.alive
    assert batcher.queue_tokens == 0
    with pytest.raises(WorkerFailedError):
        submit(batcher, 1)


def test_too_few_results_are_a_death_and_no_mix_up(make: Make) -> None:
    """A run that breaks its own promise must not hand one client's result to another."""
    died = threading.Event()
    batcher = Batcher[int, int, list[int]](
        lambda _plan, batch: batch[:-1],
        builder=FakeBatchBuilder,
        max_queue_tokens=100,
        on_failure=lambda _error: died.set(),
    )
    jobs = [submit(batcher, 1, first=1), submit(batcher, 1, first=2)]
    batcher.start()
    assert died.wait(TIMEOUT)
    assert isinstance(error(jobs[1]), WorkerFailedError)


# === Asking for the same ===


def test_what_waits_already_is_computed_once_for_all(make: Make) -> None:
    """Equal items of several jobs, or of one, are one run; everybody gets the result, in the order of their items."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    jobs = [batcher.submit(items, [2] * len(items)) for items in ([1, 2], [2, 3], [3, 3, 1])]
    assert batcher.queue_tokens == 6
    assert batcher.queue_jobs == 3
    batcher.start()
    assert [result(job) for job in jobs] == [[10, 20], [20, 30], [30, 30, 10]]
    assert runner.batches == [[1, 2, 3]]


def test_what_runs_already_serves_whoever_comes(make: Make) -> None:
    """Even in a full queue: there is nothing more to wait for."""
    runner = Runner(held=True)
    batcher = make(runner, most=10, key=lambda item: item)
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


def test_sharing_has_an_end(make: Make) -> None:
    """However many ask for the same, what they hold together is bounded, and free again when they leave or are done."""
    runner = Runner()
    batcher = make(runner, most=10, key=lambda item: item, tokens_per_second=2.0)
    jobs = [batcher.submit([1, 2], [5, 5]) for _ in range(8)]
    with pytest.raises(OverloadedError, match="80 tokens wait for shared results and 5 more would exceed 80") as caught:
        batcher.submit([1], [5])
    assert caught.value.retry_after == 5  # 10 tokens wait, 2 leave a second
    batcher.cancel(jobs.pop())
    jobs += [batcher.submit([1], [5]) for _ in range(2)]
    batcher.start()
    assert [result(job) for job in jobs] == [[10, 20]] * 7 + [[10]] * 2
    again = [batcher.submit([1, 2], [5, 5]) for _ in range(8)]
    assert all(result(job) == [10, 20] for job in again)


def test_what_has_run_is_run_again(make: Make) -> None:
    """Sharing is for what is in flight; keeping results is another's business."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    batcher.start()
    assert [result(batcher.submit([1], [1])) for _ in range(2)] == [[10], [10]]
    assert runner.batches == [[1], [1]]


def test_one_who_leaves_does_not_take_it_from_the_others(make: Make) -> None:
    """Neither by withdrawing nor by its deadline; once all have left it does not run."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item)
    gone = batcher.submit([1, 2], [3, 4])
    late = batcher.submit([1], [3], timeout=1.0)
    stayed = batcher.submit([1], [3])
    batcher.cancel(gone)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (3, 2)
    runner.clock.now += 2.0
    batcher.start()
    assert result(stayed) == [10]
    assert isinstance(error(late), DeadlineExceededError)
    assert runner.batches == [[1]]


@pytest.mark.parametrize("leave", ["withdraw", "expire"])
def test_leaving_costs_no_more_than_was_asked_for(make: Make, leave: str) -> None:
    """Who asked for the same thousand things, or for one a thousand times, leave without looking at one another."""
    runner = Runner()
    batcher = make(runner, key=lambda item: item, most=10**6)
    items = [*range(1_000), *[1] * 1_000]
    jobs = [batcher.submit(items, [1] * 2_000, timeout=1.0) for _ in range(10)]
    looked_at = 0

    class Counted(dict[Job[int, int], list[int]]):
        def __iter__(self) -> Iterator[Job[int, int]]:
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

    for entry in batcher._shareable.values():
        entry.waiters = Counted(entry.waiters)
    if leave == "withdraw":
        for job in jobs:
            batcher.cancel(job)
    else:
        runner.clock.now += 2.0
        assert taken(batcher) == []
    assert looked_at <= len(jobs)
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)


def test_a_guilty_item_fails_all_who_asked_for_it(make: Make) -> None:
    """And nobody else; the next who asks gets a run of their own."""
    runner = Runner(guilty=frozenset({1}))
    batcher = make(runner, key=lambda item: item)
    jobs = [batcher.submit([item], [1]) for item in (1, 2, 1)]
    batcher.start()
    assert [isinstance(error(job), ZeroDivisionError) for job in jobs] == [True, False, True]
    runner.guilty = frozenset()
    assert result(batcher.submit([1], [1])) == [10]


# === Different outputs of one sequence ===

# An item is a sequence, and a bit for each output of it that is requested.
FIRST, SECOND = 0b01, 0b10


def sequence(number: int, outputs: int) -> int:
    """Return an item."""
    return number << 2 | outputs


def key_of(item: int) -> int:
    """Return the sequence of an item."""
    return item >> 2


def merge(one: int, other: int) -> int:
    """Return the item with the outputs of both."""
    return one if one | other == one else one | other


def test_queued_item_is_widened_to_serve_both_jobs(make: Make) -> None:
    """It waits and runs once, with the outputs of both."""
    runner = Runner()
    batcher = make(runner, key=key_of, merge=merge)
    jobs = [batcher.submit([sequence(1, outputs)], [3]) for outputs in (FIRST, SECOND, FIRST)]
    assert (batcher.queue_tokens, batcher.queue_jobs) == (3, 3)
    batcher.start()
    merged = sequence(1, FIRST | SECOND)
    assert [result(job) for job in jobs] == [[merged * 10]] * 3
    assert runner.batches == [[merged]]


def test_running_item_that_serves_is_joined(make: Make) -> None:
    """A job for fewer outputs than the run computes does not wait, even where the queue is full."""
    runner = Runner(held=True)
    batcher = make(runner, key=key_of, merge=merge, most=10)
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


def test_running_item_that_does_not_serve_is_not_joined(make: Make) -> None:
    """The other outputs need a run of their own, and count as waiting tokens."""
    runner = Runner(held=True)
    batcher = make(runner, key=key_of, merge=merge, most=10)
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


def test_queued_item_is_joined_after_an_equal_run_has_ended(make: Make) -> None:
    """The end of a run does not hide the item of the same sequence that waits."""
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


def test_failure_of_a_widened_item_fails_all_its_jobs(make: Make) -> None:
    """They wait for the same run."""
    runner = Runner(guilty=frozenset({sequence(1, FIRST | SECOND)}))
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
def test_every_job_gets_at_least_the_outputs_that_it_requests(jobs: list[tuple[list[int], int]]) -> None:
    """Any sequences, any outputs, while others of the same wait or run."""
    batcher = Batcher[int, int, list[int]](
        lambda _plan, batch: batch,
        builder=FakeBatchBuilder,
        max_queue_tokens=10**6,
        key=lambda item: item >> 3,
        merge=merge,
    )
    submitted: list[tuple[list[int], Job[int, int]]] = []
    for number, (sequences, outputs) in enumerate(jobs):
        if number == len(jobs) // 2:
            batcher.start()
        items = [each << 3 | outputs for each in sequences]
        submitted.append((items, batcher.submit(items, [1 + item // 16 for item in items])))
    for items, job in submitted:
        for item, served in zip(items, result(job), strict=True):
            assert (served >> 3, served & item) == (item >> 3, item)
    batcher.close()
    assert (batcher.queue_tokens, batcher.queue_jobs, batcher._shareable) == (0, 0, {})


# === Ending ===


def test_draining_refuses_the_new_and_finishes_the_old(make: Make) -> None:
    """What was accepted is answered."""
    runner = Runner(held=True)
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


def test_a_batcher_is_idle_when_nothing_waits_and_nothing_runs(make: Make) -> None:
    """Work that runs is work."""
    runner = Runner(held=True)
    batcher = make(runner)
    assert batcher.idle
    submit(batcher, 1)
    assert not batcher.idle
    batcher.start()
    assert runner.entered.wait(TIMEOUT)
    assert (batcher.queue_jobs, batcher.idle) == (0, False)
    runner.opened.set()
    batcher.drain()
    # Closing joins the thread, after which nothing can run.
    batcher.close()
    assert batcher.idle


def test_closing_fails_what_waits(make: Make) -> None:
    """Nobody is left waiting, and the worker ends after the batch that runs."""
    runner = Runner(held=True)
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


def test_a_last_run_that_does_not_end_is_a_death(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for ever, and says that not everything came to its end."""
    monkeypatch.setattr(service.core.batcher, "_SHUTDOWN_GRACE_SECONDS", 0.05)
    runner = Runner(held=True)
    deaths: list[BaseException] = []
    batcher = make(runner, on_failure=deaths.append)
    batcher.start()
    job = submit(batcher, 10)
    assert runner.entered.wait(TIMEOUT)
    batcher.close()
    assert isinstance(error(job), DrainingError)
    assert [str(death) for death in deaths] == ["the last run has not ended within 0.05 seconds"]
    assert (batcher.alive, batcher.stuck) == (False, True)


@pytest.mark.parametrize("before", [True, False])
def test_a_last_run_is_not_waited_for_by_who_is_in_a_hurry(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """Nor is the worker dead then: nobody knows how long it would have taken."""
    monkeypatch.setattr(service.core.batcher, "_SHUTDOWN_GRACE_SECONDS", 10 * TIMEOUT)
    runner = Runner(held=True)
    deaths: list[BaseException] = []
    batcher = make(runner, on_failure=deaths.append)
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
    assert deaths == []
    assert batcher.stuck


def test_closing_before_starting_fails_what_waits(make: Make) -> None:
    """A worker that never started owes an answer, too."""
    batcher = make(Runner())
    job = submit(batcher, 1)
    batcher.close()
    assert isinstance(error(job), DrainingError)


# === Timings ===


def test_a_job_knows_where_its_time_went(make: Make) -> None:
    """Its queue time ends when its first batch begins; its compute time is that of the batches it had a part in."""
    runner = Runner(seconds=2.0)
    batcher = make(runner)
    first, second = submit(batcher, 10, 10, first=1), submit(batcher, 10, first=3)
    assert first.queue_seconds == 0.0
    runner.clock.now += 5.0
    batcher.start()
    assert (result(first), result(second)) == ([10, 20], [30])
    assert (first.queue_seconds, first.compute_seconds) == (5.0, 4.0)
    assert (second.queue_seconds, second.compute_seconds) == (9.0, 2.0)


# === All of it ===


@given(
    jobs=st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=6), min_size=1, max_size=25),
    row=st.integers(16, 40),
    guilty=st.sets(st.integers(0, 60), max_size=3),
)
def test_every_item_is_answered_once_and_no_row_overflows(jobs: list[list[int]], row: int, guilty: set[int]) -> None:
    """Any jobs, any sizes, any guilty ones: each innocent job gets its own results in order, each guilty one its error.

    No batch is longer than the row, and no item runs again once it has a result.
    """
    sizes = [size for job in jobs for size in job]
    succeeded: list[int] = []

    def run(plan: list[int], batch: list[int]) -> list[int]:
        assert plan == [sizes[item] for item in batch]
        assert sum(plan) <= row
        if guilty.intersection(batch):
            raise ZeroDivisionError
        succeeded.extend(batch)
        return [item * 10 for item in batch]

    batcher = Batcher[int, int, list[int]](run, builder=lambda: FakeBatchBuilder(row), max_queue_tokens=sum(sizes))
    submitted: list[tuple[list[int], Future[list[int]]]] = []
    first = 0
    for number, job in enumerate(jobs):
        if number == len(jobs) // 2:
            batcher.start()  # the first half waits already, the second comes while batches run
        items = list(range(first, first + len(job)))
        submitted.append((items, batcher.submit(items, job).future))
        first += len(job)
    for items, future in submitted:
        if guilty.intersection(items):
            assert isinstance(future.exception(timeout=TIMEOUT), ZeroDivisionError)
        else:
            assert future.result(timeout=TIMEOUT) == [item * 10 for item in items]
    batcher.close()
    assert len(succeeded) == len(set(succeeded))
    assert (batcher.queue_tokens, batcher.queue_jobs) == (0, 0)
