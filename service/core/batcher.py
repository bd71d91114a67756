"""Micro-batching: a bounded queue, and one thread that runs what has gathered. Sizes are integers, models unknown here.

No timer: while a batch runs the next one gathers, and when nothing runs the first to come runs at once. A batch takes
the oldest work first and looks ahead for what else fits; the oldest always has a place, so nobody starves. A job enters
whole or not at all. Equal items in flight are computed once: results do not depend on company, so one serves all.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar

from service.core.errors import DeadlineExceededError, DrainingError, OverloadedError, WorkerFailedError

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)

# How many items are looked at for a batch: bounds the time that the lock is held, and how far anyone is overtaken.
LOOK_AHEAD_ITEMS = 256
# How many times the queue's tokens may be asked for by all who wait, where they wait for the same: sharing saves runs,
# but each of them holds its own memory.
_MAX_SHARED_FACTOR = 8
# Weight of the newest batch in the measured speed.
_SMOOTHING = 0.2
_MAX_RETRY_AFTER_SECONDS = 60
# Seconds that a process needs about to be replaced.
_RESTART_SECONDS = 5
# Seconds that the last run may take once nobody waits for it.
_SHUTDOWN_GRACE_SECONDS = 5.0
# How soon who waits for it sees that nobody is to.
_JOIN_POLL_SECONDS = 0.1


class Builder(Protocol[P_co]):
    """Collects the items of one run."""

    @property
    def full(self) -> bool:
        """Whether no further item fits, however small."""

    def add(self, size: int) -> bool:
        """Add an item of `size` tokens, if it fits. Where one did not fit, a larger one does not fit either."""

    def build(self) -> P_co:
        """Return the plan of the run; items are numbered in the order in which they were added."""


@dataclass(eq=False, slots=True)
class Job(Generic[T, R]):
    """One request's items on their way through the queue.

    Attributes:
        sizes: Tokens of each item.
        submitted: When it came, by the batcher's clock.
        deadline: When it is given up.
        future: The results in the items' order, or the error.
        started: When its first run began, if it has.
        compute_seconds: Length of the runs that it had a part in.
        works: What computes each item, until the job is settled.
        waiting: How many of them no batch has taken.
        asked: Tokens of all its works, until the job is settled.
        results: Results so far, by index.
    """

    sizes: Sequence[int]
    submitted: float
    deadline: float
    future: Future[list[R]] = field(default_factory=Future)
    started: float | None = None
    compute_seconds: float = 0.0
    entries: list[Entry[T, R]] = field(default_factory=list)
    waiting: int = 0
    requested_tokens: int = 0
    results: dict[int, R] = field(default_factory=dict)

    @property
    def queue_seconds(self) -> float:
        """From submission to the first run."""
        return 0.0 if self.started is None else self.started - self.submitted


@dataclass(eq=False, slots=True)
class Entry(Generic[T, R]):
    """One item to compute, once, for all who asked for an equal one while it waits or runs.

    Attributes:
        item: The item, as it serves all its owners.
        size: Its tokens.
        key: What equal items have in common.
        owners: The jobs that get the result, and its places in each.
    """

    item: T
    size: int
    key: Hashable
    waiters: dict[Job[T, R], list[int]] = field(default_factory=dict)


class Batcher(Generic[T, R, P]):
    """The queue and its worker thread.

    Args:
        run: Runs a plan and its items: as many results as items, in their order. Called on the worker thread only. If
            it raises, the batch is split until the failing item fails alone.
        builder: Returns the builder of one run, empty.
        max_queue_tokens: Tokens that may wait.
        key: What equal items have in common; without it, no two are equal.
        merge: Returns an item that serves both of two equal ones; the first is returned where it does already. An item
            that runs is only shared if it serves as it is.
        canary: An item of one token that is known to run. It is run when another has failed alone: where it fails as
            well, the items are not at fault, and the worker dies.
        on_death: Called once if the worker dies, from its thread or from whoever calls `fail`.
        tokens_per_second: Speed of full batches, until some have been measured; 0 where it is not known.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[P, list[T]], Sequence[R]],
        *,
        builder: Callable[[], Builder[P]],
        max_queue_tokens: int,
        key: Callable[[T], Hashable] | None = None,
        merge: Callable[[T, T], T] = lambda item, _other: item,
        canary: T | None = None,
        on_failure: Callable[[BaseException], None] = lambda _error: None,
        tokens_per_second: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._builder = builder
        self._max_queue_tokens = max_queue_tokens
        self._key = key
        self._merge = merge
        self._canary = canary
        self._on_failure = on_failure
        self._clock = clock
        self._condition = threading.Condition()
        # Ordered by arrival: what no batch has taken.
        self._queue: dict[Entry[T, R], None] = {}
        self._running: list[Entry[T, R]] = []
        self._runs = 0
        # Both of them, by their items' keys.
        self._shareable: dict[Hashable, Entry[T, R]] = {}
        self._queue_tokens = self._queue_jobs = self._requested_tokens = 0
        self._tokens_per_second = tokens_per_second
        self._filled = False
        self._draining = self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run_worker, name="model", daemon=True)
        self._skip_wait = False

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait."""
        return self._queue_tokens

    @property
    def queue_jobs(self) -> int:
        """Jobs that wait, in whole or in part."""
        return self._queue_jobs

    @property
    def alive(self) -> bool:
        """Whether the worker thread can run a batch."""
        return self._failure is None and self._thread.is_alive()

    @property
    def run(self) -> int | None:
        """The number of the run that goes on, if one does."""
        return self._runs if self._running else None

    @property
    def stuck(self) -> bool:
        """Whether the worker is dead or closed, and its thread still inside a run."""
        return (self._failure is not None or self._closed) and self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._condition:
            return not self._queue and not self._running

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def submit(self, items: Sequence[T], sizes: Sequence[int], timeout: float = math.inf) -> Job[T, R]:
        """Queue all `items` or none.

        Args:
            items: At least one.
            sizes: Tokens of each; each fits an empty builder.
            timeout: Seconds after which the job is not run any more.

        Raises:
            OverloadedError: They do not fit the queue; says when they will.
            DrainingError: No new work is taken.
            WorkerFailedError: The worker is dead.
        """
        keys = [object() if self._key is None else self._key(item) for item in items]
        with self._condition:
            if self._failure is not None:
                raise WorkerFailedError("the worker has failed", retry_after=_RESTART_SECONDS)
            if self._draining or self._closed:
                raise DrainingError("the service is shutting down", retry_after=1)
            different = dict(zip(keys, sizes, strict=True))
            requested_tokens = sum(different.values())
            shared = {key: self._shared(key, item) for key, item in zip(keys, items, strict=True)}
            tokens = sum(size for key, size in different.items() if shared[key] is None)
            if self._queue_tokens + tokens > self._max_queue_tokens:
                raise OverloadedError(
                    f"{self._queue_tokens} tokens are waiting and {tokens} more would exceed {self._max_queue_tokens}",
                    retry_after=self._wait_for(self._queue_tokens + tokens - self._max_queue_tokens),
                )
            if self._requested_tokens + requested_tokens > _MAX_SHARED_FACTOR * self._max_queue_tokens:
                raise OverloadedError(
                    f"requests for {self._requested_tokens} tokens wait for shared results and {requested_tokens} more "
                    f"would exceed {_MAX_SHARED_FACTOR * self._max_queue_tokens}",
                    retry_after=self._wait_for(self._queue_tokens),
                )
            now = self._clock()
            job: Job[T, R] = Job(sizes, submitted=now, deadline=now + timeout, requested_tokens=requested_tokens)
            for index, (item, key) in enumerate(zip(items, keys, strict=True)):
                entry = shared[key]
                if entry is None:
                    entry = shared[key] = self._shareable[key] = Entry(item, sizes[index], key)
                    self._queue[entry] = None
                elif entry in self._queue:
                    entry.item = self._merge(entry.item, item)
                indices = entry.waiters.setdefault(job, [])
                indices.append(index)
                if len(indices) > 1:
                    continue
                job.entries.append(entry)
                if entry in self._queue:
                    job.waiting += 1
                else:
                    job.started = now
            self._queue_tokens += tokens
            self._requested_tokens += requested_tokens
            self._queue_jobs += job.waiting > 0
            self._condition.notify()
        return job

    def cancel(self, job: Job[T, R]) -> None:
        """Take a job's waiting items out of the queue; what already runs is run, and its result dropped."""
        job.future.cancel()
        with self._condition:
            self._detach(job)

    def drain(self) -> None:
        """Take no new work; what is accepted is finished."""
        with self._condition:
            self._draining = True

    def cancel_pending(self) -> None:
        """Fail what still waits, and stop the worker after the batch that runs."""
        with self._condition:
            self._draining = self._closed = True
            self._fail_all(DrainingError("the service is shutting down", retry_after=1))
            self._condition.notify()

    def fail(self, error: BaseException) -> None:
        """Fail all who run or wait, and let nobody in any more; from outside, where the worker's run does not end."""
        with self._condition:
            if self._failure is not None:
                return
            self._failure = error
            self._fail_all(WorkerFailedError("the worker has failed", retry_after=_RESTART_SECONDS))
            self._condition.notify()
        self._on_failure(error)

    def close(self) -> None:
        """Give up, and wait for the worker's end; not for ever: one whose run does not end then is dead."""
        self.cancel_pending()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            ends = time.monotonic() + (0.0 if self._failure is not None else _SHUTDOWN_GRACE_SECONDS)
            while self._thread.is_alive() and not self._skip_wait:
                if time.monotonic() >= ends:
                    self.fail(RuntimeError(f"the last run has not ended within {_SHUTDOWN_GRACE_SECONDS:g} seconds"))
                    break
                self._thread.join(_JOIN_POLL_SECONDS)

    def skip_shutdown_wait(self) -> None:
        """Let nobody who closes wait for the worker's end, neither now nor later.

        It takes no lock: a signal's handler calls it, perhaps in the middle of itself.
        """
        self._skip_wait = True

    def next_batch(self) -> tuple[list[Entry[T, R]], P]:
        """Form a batch from what waits: the oldest first, then whatever fits behind it. Empty if nothing waits."""
        batch: list[Entry[T, R]] = []
        builder = self._builder()
        now = self._clock()
        # Where an item did not fit no larger one will.
        fits_no_more = math.inf
        # A copy, since what expires leaves the queue.
        for entry in list(islice(self._queue, LOOK_AHEAD_ITEMS)):
            for job in [job for job in entry.waiters if job.deadline <= now]:
                self._fail(job, DeadlineExceededError("request timed out in the queue"))
            if entry.size >= fits_no_more or entry not in self._queue:
                continue
            if not builder.add(entry.size):
                fits_no_more = entry.size
                continue
            del self._queue[entry]
            self._queue_tokens -= entry.size
            batch.append(entry)
            if builder.full:
                break
        for entry in batch:
            for job in entry.waiters:
                job.waiting -= 1
                self._queue_jobs -= not job.waiting
                if job.started is None:
                    job.started = now
        self._running = batch
        # One that left nobody waiting may be small, and tells nothing of how fast a queue empties.
        self._filled = bool(self._queue)
        return batch, builder.build()

    def _run_worker(self) -> None:
        try:
            while True:
                with self._condition:
                    while not (self._queue or self._closed or self._failure):
                        self._condition.wait()
                    if self._closed or self._failure:
                        return
                    batch, plan = self.next_batch()
                if batch:
                    self._execute(batch, plan)
                with self._condition:
                    self._running = []
        except BaseException as error:  # noqa: BLE001 - nothing may leave a waiter waiting
            self.fail(error)

    def _shared(self, key: Hashable, item: T) -> Entry[T, R] | None:
        """Return the work that computes an equal item, if that can serve this one as well."""
        entry = self._shareable.get(key)
        if entry is None or entry in self._queue or self._merge(entry.item, item) is entry.item:
            return entry
        return None

    def _execute(self, batch: list[Entry[T, R]], plan: P) -> None:
        """Run a batch, and its halves where it fails, down to the failing item."""
        started = self._clock()
        self._runs += 1
        try:
            results = self._run(plan, [entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the failing job's answer
            self._isolate(batch, error)
            return
        seconds = self._clock() - started
        if self._filled and batch is self._running:
            self._measure(sum(entry.size for entry in batch), seconds)
        with self._condition:  # another thread that closes settles jobs, too, and one that submits may join
            for job in {job for entry in batch for job in entry.waiters}:
                job.compute_seconds += seconds
            for entry, result in zip(batch, results, strict=True):
                self._unshare(entry)
                for job, indices in entry.waiters.items():
                    job.results |= dict.fromkeys(indices, result)
                    if len(job.results) == len(job.sizes):
                        self._release(job)
                        _resolve(job, [job.results[place] for place in range(len(job.sizes))])

    def _isolate(self, batch: list[Entry[T, R]], error: Exception) -> None:
        """Run the halves of a batch that failed; a single item that fails alone fails its jobs."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                self._execute_planned(half)
            return
        with self._condition:
            self._unshare(batch[0])
        # Where this fails as well, the worker dies, and all running and waiting jobs fail.
        if self._canary is not None:
            builder = self._builder()
            builder.add(1)
            self._run(builder.build(), [self._canary])
        with self._condition:
            for job in list(batch[0].waiters):
                self._fail(job, error)

    def _execute_planned(self, batch: list[Entry[T, R]]) -> None:
        """Run a part of a batch, in as many runs as it then needs."""
        while batch:
            builder = self._builder()
            added = next((n for n, entry in enumerate(batch) if not builder.add(entry.size)), len(batch))
            self._execute(batch[:added], builder.build())
            batch = batch[added:]

    def _measure(self, tokens: int, seconds: float) -> None:
        speed = tokens / max(seconds, 1e-9)
        known = self._tokens_per_second
        self._tokens_per_second = speed if not known else known + _SMOOTHING * (speed - known)

    def _wait_for(self, tokens: int) -> int:
        """Return the whole seconds in which so many tokens leave the queue, by the speed measured."""
        if not self._tokens_per_second:
            return 1
        return max(1, min(_MAX_RETRY_AFTER_SECONDS, math.ceil(tokens / self._tokens_per_second)))

    def _unshare(self, entry: Entry[T, R]) -> None:
        """Let nobody join any more."""
        if self._shareable.get(entry.key) is entry:
            del self._shareable[entry.key]

    def _detach(self, job: Job[T, R]) -> None:
        """Take a job's name off all that it asked for; what nobody else waits for leaves the queue."""
        self._queue_jobs -= job.waiting > 0
        job.waiting = 0
        for entry in job.entries:
            del entry.waiters[job]
            if not entry.waiters and entry in self._queue:
                del self._queue[entry]
                self._queue_tokens -= entry.size
                self._unshare(entry)
        self._release(job)

    def _release(self, job: Job[T, R]) -> None:
        """Keep nothing of a job that is settled or gone."""
        self._requested_tokens -= job.requested_tokens
        job.requested_tokens = 0
        job.entries = []

    def _fail(self, job: Job[T, R], error: BaseException) -> None:
        self._detach(job)
        _resolve(job, error)

    def _fail_all(self, error: BaseException) -> None:
        for entry in [*self._queue, *self._running]:
            for job in list(entry.waiters):
                self._fail(job, error)


def _resolve(job: Job[T, R], outcome: list[R] | BaseException) -> None:
    """Give a job its answer, unless its client has left or it has one."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
