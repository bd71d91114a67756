"""Micro-batching: a bounded queue and one worker thread that runs batches. This module does not depend on a model.

Batches do not wait for a timer. While a batch runs, the next one accumulates; an idle worker runs the first item at
once. A batch starts with the oldest item, so no job starves, and looks ahead for further items that fit. All items of a
job enter the queue, or none does: a full queue is reported as backpressure. Equal items in flight are coalesced into
one entry, because results do not depend on batch composition. A batch that fails is bisected down to the failing item.
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

# Queued items examined per batch: bounds the time under the lock and how many items can overtake another.
LOOK_AHEAD_ITEMS = 256
# Bound of the tokens that all waiting jobs request, as a multiple of the queue size. Jobs that share items save runs,
# but each job holds its own memory.
_MAX_SHARED_FACTOR = 8
# Weight of the latest batch in the moving average of the speed.
_SMOOTHING = 0.2
_MAX_RETRY_AFTER_SECONDS = 60
# Typical time until a failed process is replaced.
_RESTART_SECONDS = 5
# Time that the last run may take after all jobs were cancelled.
_SHUTDOWN_GRACE_SECONDS = 5.0
# Interval at which `close` checks whether to stop waiting for the worker.
_JOIN_POLL_SECONDS = 0.1


class Builder(Protocol[P_co]):
    """Builds the plan of one run."""

    @property
    def full(self) -> bool:
        """Whether no further item of any size fits."""

    def add(self, size: int) -> bool:
        """Add an item of `size` tokens if it fits, and return whether it did.

        If an item does not fit, no larger item fits either.
        """

    def build(self) -> P_co:
        """Return the plan of the run. Items are numbered in the order of addition."""


@dataclass(eq=False, slots=True)
class Job(Generic[T, R]):
    """The items of one request.

    Attributes:
        sizes: Tokens of each item.
        submitted: Time of submission in seconds, by the clock of the batcher.
        deadline: Time in seconds after which the job is not run.
        future: The results in the order of the items, or the error.
        started: Start of the first run in seconds; `None` before.
        compute_seconds: Total duration of the runs that contained an item of the job.
        entries: The entries that compute the items; empty once the job is resolved.
        waiting: Number of entries that are queued.
        requested_tokens: Tokens of all entries; 0 once the job is resolved.
        results: Available results, by index of the item.
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
        """Seconds from submission to the start of the first run."""
        return 0.0 if self.started is None else self.started - self.submitted


@dataclass(eq=False, slots=True)
class Entry(Generic[T, R]):
    """An item that is queued or running, shared by all jobs that contain an equal item.

    Attributes:
        item: The item, merged from the items of all waiters.
        size: Tokens of the item.
        key: Key of the item; equal items have equal keys.
        waiters: The jobs that wait for the result, and the indices of the item in each job.
    """

    item: T
    size: int
    key: Hashable
    waiters: dict[Job[T, R], list[int]] = field(default_factory=dict)


class Batcher(Generic[T, R, P]):
    """A queue and its worker thread.

    Args:
        run: Runs a plan and its items, and returns one result per item, in order. Called on the worker thread only. If
            it raises, the batch is split until the failing item fails alone.
        builder: Returns an empty builder of one run.
        max_queue_tokens: Maximum number of queued tokens.
        key: Returns the key of an item; items with equal keys are equal. Without it, no two items are equal.
        merge: Returns an item whose result serves two equal items. It returns the first if that serves both. A running
            item is shared only if it needs no merge.
        canary: A valid item of one token. It is run after an item has failed alone: if it fails as well, the item is
            not the cause, and the worker fails.
        on_failure: Called once if the worker fails, on the worker thread or in `fail`.
        tokens_per_second: Initial speed of full batches; 0 if it is unknown.
        clock: Returns monotonic seconds.
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
        # Queued entries in order of arrival; a dict removes any of them in constant time.
        self._queue: dict[Entry[T, R], None] = {}
        self._running: list[Entry[T, R]] = []
        self._runs = 0
        # Queued and running entries by key.
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
        """Number of queued tokens."""
        return self._queue_tokens

    @property
    def queue_jobs(self) -> int:
        """Number of jobs with at least one queued item."""
        return self._queue_jobs

    @property
    def alive(self) -> bool:
        """Whether the worker thread can run a batch."""
        return self._failure is None and self._thread.is_alive()

    @property
    def run(self) -> int | None:
        """Number of the current run; `None` while no batch runs."""
        return self._runs if self._running else None

    @property
    def stuck(self) -> bool:
        """Whether the worker has failed or is closed while its thread is still inside a run."""
        return (self._failure is not None or self._closed) and self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Whether no item is queued or running."""
        with self._condition:
            return not self._queue and not self._running

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def submit(self, items: Sequence[T], sizes: Sequence[int], timeout: float = math.inf) -> Job[T, R]:
        """Queue all items, or none of them: an error is the backpressure of a full queue.

        Args:
            items: One or more items.
            sizes: Tokens of each item; each item fits an empty builder.
            timeout: Seconds after which the job is not run.

        Raises:
            OverloadedError: The items do not fit into the queue. The error states when to retry.
            DrainingError: The batcher accepts no new jobs.
            WorkerFailedError: The worker has failed.
        """
        keys = [object() if self._key is None else self._key(item) for item in items]
        with self._condition:
            if self._failure is not None:
                raise WorkerFailedError("the worker has failed", retry_after=_RESTART_SECONDS)
            if self._draining or self._closed:
                raise DrainingError("the service is shutting down", retry_after=1)
            unique_sizes = dict(zip(keys, sizes, strict=True))
            requested_tokens = sum(unique_sizes.values())
            shared = {key: self._shared(key, item) for key, item in zip(keys, items, strict=True)}
            tokens = sum(size for key, size in unique_sizes.items() if shared[key] is None)
            if self._queue_tokens + tokens > self._max_queue_tokens:
                raise OverloadedError(
                    f"queue full: {self._queue_tokens} of {self._max_queue_tokens} tokens are queued and this request "
                    f"adds {tokens}; retry later",
                    retry_after=self._wait_for(self._queue_tokens + tokens - self._max_queue_tokens),
                )
            if self._requested_tokens + requested_tokens > _MAX_SHARED_FACTOR * self._max_queue_tokens:
                raise OverloadedError(
                    f"{self._requested_tokens} requested tokens wait for shared results and this request adds "
                    f"{requested_tokens}; the maximum is {_MAX_SHARED_FACTOR * self._max_queue_tokens}; retry later",
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
        """Cancel a job: remove its queued items, and discard the results of its running ones."""
        job.future.cancel()
        with self._condition:
            self._detach(job)

    def drain(self) -> None:
        """Reject new jobs and finish the accepted ones."""
        with self._condition:
            self._draining = True

    def cancel_pending(self) -> None:
        """Fail all queued and running jobs, and stop the worker after the current batch."""
        with self._condition:
            self._draining = self._closed = True
            self._fail_all(DrainingError("the service is shutting down", retry_after=1))
            self._condition.notify()

    def fail(self, error: BaseException) -> None:
        """Fail all queued and running jobs and reject new ones. Callable from any thread, even during a run."""
        with self._condition:
            if self._failure is not None:
                return
            self._failure = error
            self._fail_all(WorkerFailedError("the worker has failed", retry_after=_RESTART_SECONDS))
            self._condition.notify()
        self._on_failure(error)

    def close(self) -> None:
        """Cancel all jobs and wait for the worker. A worker that does not end within the grace period has failed."""
        self.cancel_pending()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            end = time.monotonic() + (0.0 if self._failure is not None else _SHUTDOWN_GRACE_SECONDS)
            while self._thread.is_alive() and not self._skip_wait:
                if time.monotonic() >= end:
                    self.fail(RuntimeError(f"the last run has not ended within {_SHUTDOWN_GRACE_SECONDS:g} seconds"))
                    break
                self._thread.join(_JOIN_POLL_SECONDS)

    def skip_shutdown_wait(self) -> None:
        """Make current and later calls of `close` return without waiting for the worker.

        This method takes no lock, because signal handlers call it.
        """
        self._skip_wait = True

    def next_batch(self) -> tuple[list[Entry[T, R]], P]:
        """Form a batch of queued items: the oldest first, then all further items that fit.

        Returns:
            The entries and their plan; no entries if the queue is empty.
        """
        batch: list[Entry[T, R]] = []
        builder = self._builder()
        now = self._clock()
        # Size of the smallest item that did not fit; no larger item fits.
        rejected_size = math.inf
        # A copy, because expired items leave the queue during the loop.
        for entry in list(islice(self._queue, LOOK_AHEAD_ITEMS)):
            for job in [job for job in entry.waiters if job.deadline <= now]:
                self._fail(job, _timed_out(job))
            if entry.size >= rejected_size or entry not in self._queue:
                continue
            if not builder.add(entry.size):
                rejected_size = entry.size
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
        # A batch that empties the queue may be small; its speed does not predict how fast a queue drains.
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
        except BaseException as error:  # noqa: BLE001 - every waiting job needs an outcome
            self.fail(error)

    def _shared(self, key: Hashable, item: T) -> Entry[T, R] | None:
        """Return the entry that an item coalesces with: an equal item whose result serves this one as well."""
        entry = self._shareable.get(key)
        if entry is None or entry in self._queue or self._merge(entry.item, item) is entry.item:
            return entry
        return None

    def _execute(self, batch: list[Entry[T, R]], plan: P) -> None:
        """Run a batch, and bisect it if it fails."""
        started = self._clock()
        self._runs += 1
        try:
            results = self._run(plan, [entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001 - any error becomes the outcome of the failing job
            self._isolate(batch, error)
            return
        seconds = self._clock() - started
        if self._filled and batch is self._running:
            self._measure(sum(entry.size for entry in batch), seconds)
        # Other threads may resolve jobs in `close` or join entries in `submit`.
        with self._condition:
            for job in {job for entry in batch for job in entry.waiters}:
                job.compute_seconds += seconds
            for entry, result in zip(batch, results, strict=True):
                self._unshare(entry)
                for job, indices in entry.waiters.items():
                    job.results |= dict.fromkeys(indices, result)
                    if len(job.results) == len(job.sizes):
                        self._release(job)
                        _resolve(job, [job.results[index] for index in range(len(job.sizes))])

    def _isolate(self, batch: list[Entry[T, R]], error: Exception) -> None:
        """Bisect a failed batch: run its halves. An item that fails alone fails its jobs."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                self._execute_planned(half)
            return
        with self._condition:
            self._unshare(batch[0])
        # If the canary fails as well, the worker and all running and queued jobs fail.
        if self._canary is not None:
            builder = self._builder()
            builder.add(1)
            self._run(builder.build(), [self._canary])
        with self._condition:
            for job in list(batch[0].waiters):
                self._fail(job, error)

    def _execute_planned(self, batch: list[Entry[T, R]]) -> None:
        """Run a part of a failed batch, in several runs if its plan needs them."""
        while batch:
            builder = self._builder()
            added = next((n for n, entry in enumerate(batch) if not builder.add(entry.size)), len(batch))
            self._execute(batch[:added], builder.build())
            batch = batch[added:]

    def _measure(self, tokens: int, seconds: float) -> None:
        speed = tokens / max(seconds, 1e-9)
        previous = self._tokens_per_second
        self._tokens_per_second = speed if not previous else previous + _SMOOTHING * (speed - previous)

    def _wait_for(self, tokens: int) -> int:
        """Return the Retry-After: estimated whole seconds until `tokens` tokens have left the queue."""
        if not self._tokens_per_second:
            return 1
        return max(1, min(_MAX_RETRY_AFTER_SECONDS, math.ceil(tokens / self._tokens_per_second)))

    def _unshare(self, entry: Entry[T, R]) -> None:
        """Stop further jobs from sharing an entry."""
        if self._shareable.get(entry.key) is entry:
            del self._shareable[entry.key]

    def _detach(self, job: Job[T, R]) -> None:
        """Remove a job from its entries. Queued entries without other waiters leave the queue."""
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
        """Release the entries of a job that is resolved or cancelled."""
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


def _timed_out(job: Job[T, R]) -> DeadlineExceededError:
    return DeadlineExceededError(f"request timed out after {round(job.deadline - job.submitted, 2):g} s in the queue")


def _resolve(job: Job[T, R], outcome: list[R] | BaseException) -> None:
    """Set the outcome of a job, unless it is cancelled or already has one."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
