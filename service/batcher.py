"""Micro-batching: a bounded queue, and one thread that runs what has gathered. Sizes are integers, models unknown here.

No timer: while a batch runs the next one gathers, and when nothing runs the first to come runs at once. A batch takes
the oldest work first and looks ahead for what else fits; the oldest always has a place, so nobody starves. A job enters
whole or not at all.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from service.errors import DeadlineExceededError, DrainingError, OverloadedError, WorkerFailedError

T = TypeVar("T")
R = TypeVar("R")

# How many items are looked at for a batch: bounds the time that the lock is held, and how far anyone is overtaken.
LOOK_AHEAD = 256
# Weight of the newest batch in the measured speed.
_SMOOTHING = 0.2
_LONGEST_WAIT = 60
# Seconds that a process needs about to be replaced.
_RESTART = 5


@dataclass(eq=False, slots=True)
class Job(Generic[T, R]):
    """One request's items on their way through the queue.

    Attributes:
        items: What to run.
        sizes: Tokens of each item.
        submitted: When it came, by the batcher's clock.
        deadline: When it is given up.
        future: The results in the items' order, or the error.
        started: When its first run began, if it has.
        compute_seconds: Length of the runs that it had a part in.
        waiting: Indices of the items that no batch has taken yet.
        results: Results so far, by index.
    """

    items: Sequence[T]
    sizes: Sequence[int]
    submitted: float
    deadline: float
    future: Future[list[R]] = field(default_factory=Future)
    started: float | None = None
    compute_seconds: float = 0.0
    waiting: deque[int] = field(default_factory=deque)
    results: dict[int, R] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.items)))

    @property
    def queue_seconds(self) -> float:
        """From submission to the first run."""
        return 0.0 if self.started is None else self.started - self.submitted


Entry = tuple[Job[T, R], int]


class Batcher(Generic[T, R]):
    """The queue and its worker thread.

    Args:
        run: Runs a batch: as many results as items, in their order. Called on the worker thread only. If it raises,
            the batch is split until the guilty item fails alone.
        row: Tokens that a batch may hold.
        room: Tokens that an item of a given size takes in a batch, gaps included.
        max_queue_tokens: Tokens that may wait.
        on_death: Called once, from the worker thread, if that thread dies.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R]],
        *,
        row: int,
        max_queue_tokens: int,
        room: Callable[[int], int] = lambda size: size,
        on_death: Callable[[BaseException], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._row = row
        self._room = room
        self._max_queue_tokens = max_queue_tokens
        self._on_death = on_death
        self._clock = clock
        self._condition = threading.Condition()
        # Ordered by arrival: jobs with items that no batch has taken.
        self._queue: dict[Job[T, R], None] = {}
        self._running: set[Job[T, R]] = set()
        self._queue_tokens = 0
        self._tokens_per_second = 0.0
        self._draining = self._closed = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait."""
        return self._queue_tokens

    @property
    def queue_jobs(self) -> int:
        """Jobs that wait, in whole or in part."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the worker thread can run a batch."""
        return self._death is None and self._thread.is_alive()

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
            sizes: Tokens of each, none above the row.
            timeout: Seconds after which the job is not run any more.

        Raises:
            OverloadedError: They do not fit the queue; says when they will.
            DrainingError: No new work is taken.
            WorkerFailedError: The worker is dead.
        """
        tokens = sum(sizes)
        with self._condition:
            if self._death is not None:
                raise WorkerFailedError("the worker has failed", retry_after=_RESTART)
            if self._draining or self._closed:
                raise DrainingError("the service is shutting down", retry_after=1)
            if self._queue_tokens + tokens > self._max_queue_tokens:
                raise OverloadedError(
                    f"{self._queue_tokens} tokens are waiting and {tokens} more would exceed {self._max_queue_tokens}",
                    retry_after=self._wait_for(self._queue_tokens + tokens - self._max_queue_tokens),
                )
            now = self._clock()
            job: Job[T, R] = Job(items, sizes, submitted=now, deadline=now + timeout)
            self._queue[job] = None
            self._queue_tokens += tokens
            self._condition.notify()
        return job

    def withdraw(self, job: Job[T, R]) -> None:
        """Take a job's waiting items out of the queue; what already runs is run, and its result dropped."""
        job.future.cancel()
        with self._condition:
            self._forget(job)

    def drain(self) -> None:
        """Take no new work; what is accepted is finished."""
        with self._condition:
            self._draining = True

    def close(self) -> None:
        """Stop the worker after the batch that runs, and fail what still waits."""
        with self._condition:
            self._closed = True
            self._fail_all(DrainingError("the service is shutting down", retry_after=1))
            self._condition.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def take(self) -> list[Entry[T, R]]:
        """Form a batch from what waits: the oldest first, then whatever fits behind it. Empty if nothing waits."""
        batch: list[Entry[T, R]] = []
        used = looked_at = 0
        now = self._clock()
        # A copy, since expired jobs leave the queue; each of the others has an item to look at.
        for job in list(islice(self._queue, LOOK_AHEAD)):
            if job.deadline <= now:
                self._fail(job, DeadlineExceededError("the request's time was up before it could run"))
                continue
            kept: deque[int] = deque()
            while job.waiting:
                index = job.waiting.popleft()
                looked_at += 1
                if used + job.sizes[index] <= self._row:
                    used += self._room(job.sizes[index])
                    batch.append((job, index))
                    self._queue_tokens -= job.sizes[index]
                else:
                    kept.append(index)
                if looked_at >= LOOK_AHEAD or used >= self._row:
                    break
            job.waiting.extendleft(reversed(kept))
            if not job.waiting:
                del self._queue[job]
            if looked_at >= LOOK_AHEAD or used >= self._row:
                break
        for job, _ in batch:
            self._running.add(job)
            if job.started is None:
                job.started = now
        return batch

    def _work(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._queue and not self._closed:
                        self._condition.wait()
                    if self._closed:
                        return
                    batch = self.take()
                if batch:
                    self._execute(batch)
                with self._condition:
                    self._running.clear()
        except BaseException as error:  # noqa: BLE001 - nothing may leave a waiter waiting
            with self._condition:
                self._death = error
                self._fail_all(WorkerFailedError("the worker has failed", retry_after=_RESTART))
            self._on_death(error)

    def _execute(self, batch: list[Entry[T, R]]) -> None:
        """Run a batch, and its halves where it fails, down to the item that is guilty."""
        started = self._clock()
        try:
            results = self._run([job.items[index] for job, index in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the guilty job's answer
            if len(batch) == 1:
                with self._condition:
                    self._fail(batch[0][0], error)
                return
            middle = len(batch) // 2
            self._execute(batch[:middle])
            self._execute(batch[middle:])
            return
        seconds = self._clock() - started
        self._measure(sum(job.sizes[index] for job, index in batch), seconds)
        for job in {job for job, _ in batch}:
            job.compute_seconds += seconds
        with self._condition:  # another thread that closes settles jobs, too
            for (job, index), result in zip(batch, results, strict=True):
                job.results[index] = result
                if len(job.results) == len(job.items):
                    _settle(job, [job.results[place] for place in range(len(job.items))])

    def _measure(self, tokens: int, seconds: float) -> None:
        speed = tokens / max(seconds, 1e-9)
        known = self._tokens_per_second
        self._tokens_per_second = speed if not known else known + _SMOOTHING * (speed - known)

    def _wait_for(self, tokens: int) -> int:
        """Return the whole seconds in which so many tokens leave the queue, by the speed measured."""
        if not self._tokens_per_second:
            return 1
        return max(1, min(_LONGEST_WAIT, math.ceil(tokens / self._tokens_per_second)))

    def _forget(self, job: Job[T, R]) -> None:
        if job in self._queue:
            del self._queue[job]
            self._queue_tokens -= sum(job.sizes[index] for index in job.waiting)
        job.waiting.clear()

    def _fail(self, job: Job[T, R], error: BaseException) -> None:
        self._forget(job)
        _settle(job, error)

    def _fail_all(self, error: BaseException) -> None:
        for job in [*self._queue, *self._running]:
            self._fail(job, error)


def _settle(job: Job[T, R], outcome: list[R] | BaseException) -> None:
    """Give a job its answer, unless its client has left or it has one."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
