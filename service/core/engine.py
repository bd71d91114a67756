"""The engine: loads a preset, makes its programs ready, and then tokenises, admits, batches and gathers.

Three kinds of threads: the event loop that calls `encode`, a few workers for tokenising, parsing and rendering, and one
model thread that alone runs the network. A loader thread makes the engine ready and ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from model.backends import backend_type
from model.backends.base import BackendError
from model.encoder import (
    ALL_OUTPUTS,
    EncoderInput,
    Encoding,
    NonFiniteOutputError,
    Output,
    PackedEncoder,
    Tokens,
)
from model.errors import PresetError
from model.packing import BatchPlan
from model.presets.preset import Padding, Pooling
from model.selftest import SelfTestError
from service.core import errors
from service.core.batcher import Batcher, Job
from service.core.cache import ResultCache
from service.core.events import (
    BatchRan,
    Observer,
    OutputNotFinite,
    ProgramCompiled,
    RequestComputed,
    ResultsLookedUp,
    TextsTokenized,
    Timings,
)
from service.core.inputs import Text, from_texts
from service.core.loader import LoadedModel, faster_settings, load_model
from service.core.options import EngineOptions
from service.core.watchdog import Watchdog

P = ParamSpec("P")
T = TypeVar("T")

State = Literal["loading", "compiling", "ready", "draining", "failed"]

# Enough to keep one core busy with words while the network has the others.
_WORKER_THREADS = 2
# Seconds for one run, many times what the largest network should need on a slow machine: to end a process that would
# have come back costs more than to wait.
_RUN_TIMEOUT_SECONDS = 120.0

# Bytes or values whose handling takes a tenth of a millisecond: as long as handing them to another thread does.
_INLINE_BYTES = 8192

log = structlog.get_logger("fnet.engine")


class Engine:
    """One model, from its loading to its last answer.

    Args:
        options: What to load and how to run it.
        observe: Told of all work done.
        on_failure: Called once, from whatever thread, when the engine cannot serve any more.
        run_timeout: Seconds after which a run counts as hung.
        load: Loads the model; as `service.core.loader.load_model`.
    """

    def __init__(
        self,
        options: EngineOptions,
        observe: Observer = lambda _record: None,
        on_failure: Callable[[BaseException], None] = lambda _error: None,
        run_timeout: float = _RUN_TIMEOUT_SECONDS,
        load: Callable[[EngineOptions, Callable[[int, int], None]], LoadedModel] = load_model,
    ) -> None:
        self.options = options
        self.state: State = "loading"
        self.progress = (0, 0)
        self.loaded: LoadedModel | None = None
        self._observe = observe
        self._on_failure = on_failure
        self._load_model = load
        self._batcher: Batcher[EncoderInput, Encoding, BatchPlan] | None = None
        self._watchdog = Watchdog(run_timeout)
        self._cache = ResultCache(options.result_cache_bytes)
        self._workers = ThreadPoolExecutor(_WORKER_THREADS, thread_name_prefix="worker")
        # A signal may ask to drain while the loader is about to say ready.
        self._state_lock = threading.RLock()
        self._closing = False
        self._loader = threading.Thread(target=self._load, name="loader", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the engine can serve, or will be able to."""
        return self.state != "failed"

    @property
    def stuck(self) -> bool:
        """Whether a thread is still at work that nothing can interrupt: the loader, or a run that does not end."""
        return self._loader.is_alive() or (self._batcher is not None and self._batcher.stuck)

    @property
    def idle(self) -> bool:
        """Whether no accepted work is left."""
        return self._batcher is None or self._batcher.idle

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait."""
        return 0 if self._batcher is None else self._batcher.queue_tokens

    @property
    def queue_requests(self) -> int:
        """Requests that wait, in whole or in part."""
        return 0 if self._batcher is None else self._batcher.queue_jobs

    @property
    def result_bytes(self) -> int:
        """Bytes of the results kept."""
        return self._cache.nbytes

    def start(self) -> None:
        """Load and make ready in the background."""
        self._loader.start()

    def check_watchdog(self) -> None:
        """Fail if a run does not end; to be called several times a second."""
        if self._batcher is not None and self._watchdog.expired(self._batcher.run):
            self._batcher.fail(RuntimeError(f"a run has not ended within {self._watchdog.run_timeout:g} seconds"))

    def mark_unready(self) -> None:
        """Say no to whoever asks whether the engine is ready, and go on taking work."""
        with self._state_lock:
            if self.state != "failed":
                self.state = "draining"

    def drain(self) -> None:
        """Take no new work; what is accepted is finished."""
        self.mark_unready()
        with self._state_lock:
            self._closing = True
            if self._batcher is not None:
                self._batcher.drain()

    def cancel_pending(self) -> None:
        """Fail what still waits: the time to finish it is over, and its clients are to hear of it."""
        self.drain()
        if self._batcher is not None:
            self._batcher.cancel_pending()

    def close(self) -> None:
        """Stop the threads; what still waits fails."""
        self.drain()
        if self._batcher is not None:
            self._batcher.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def skip_shutdown_wait(self) -> None:
        """Let nobody who closes wait for a run."""
        if self._batcher is not None:
            self._batcher.skip_shutdown_wait()

    def require_ready(self) -> LoadedModel:
        """Return the model.

        Raises:
            NotReadyError, DrainingError, WorkerFailedError: It does not serve (any more).
        """
        if self.state == "failed":
            raise errors.WorkerFailedError("the worker has failed", retry_after=5)
        if self._closing:
            raise errors.DrainingError("the service is shutting down", retry_after=1)
        if self.loaded is None or self.state in ("loading", "compiling"):
            raise errors.NotReadyError(f"the model is {self.state}", retry_after=1)
        return self.loaded

    def check_ready(self) -> None:
        """Raise why it tells whoever asks that it is not ready: while it is about to leave, although it takes work.

        Raises:
            NotReadyError, DrainingError, WorkerFailedError: As for `require_ready`.
        """
        self.require_ready()
        if self.state == "draining":
            raise errors.DrainingError("the service is about to shut down", retry_after=1)

    async def run_in_worker(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, lambda: function(*args, **kwargs))

    async def run_sized(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that handles `size` bytes or values: off the event loop, unless that would take longer."""
        if size <= _INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.run_in_worker(function, *args, **kwargs)

    async def tokenize(
        self,
        texts: Sequence[Text],
        *,
        truncate: bool,
        padding: Padding | None,
        locate: Callable[[int], tuple[str | int, ...]] = lambda index: ("texts", index),
    ) -> list[Tokens]:
        """Tokenise texts off the event loop; see `service.core.inputs.from_texts`.

        Raises:
            InvalidInputError: A text cannot be taken.
        """
        loaded = self.require_ready()
        started = time.perf_counter()
        tokens = await self.run_sized(
            4 * sum(len(text.text) + len(text.pair or "") for text in texts),
            from_texts,
            texts,
            loaded.tokenizer,
            loaded.preset,
            truncate=truncate,
            padding=padding,
            locate=locate,
        )
        self._observe(TextsTokenized(time.perf_counter() - started))
        return tokens

    async def encode(
        self,
        sequences: Sequence[Tokens],
        timeout: float,  # noqa: ASYNC109 - it also bounds the wait in the queue
        outputs: frozenset[Output] = ALL_OUTPUTS,
    ) -> tuple[list[Encoding], Timings]:
        """Encode checked sequences, each as if alone.

        Args:
            sequences: At least one; each within the network's bounds.
            timeout: Seconds until the request is given up.
            outputs: Which outputs of each are computed.

        Raises:
            OverloadedError: The queue has no room for all of them.
            DeadlineExceededError: The time was up.
            NonFiniteOutputError: An output is not finite.
            NotReadyError, DrainingError, WorkerFailedError: The engine does not serve (any more).
        """
        self.require_ready()
        known: dict[int, Encoding] = {}
        if self._cache.keeps:
            found = ((index, self._cache.get(tokens, outputs)) for index, tokens in enumerate(sequences))
            known = {index: kept for index, kept in found if kept}
        wanted = [index for index in range(len(sequences)) if index not in known]
        if self._cache.keeps:
            self._observe(ResultsLookedUp(len(known), len(wanted)))
        if not wanted:
            return list(known.values()), Timings()
        job = self._submit([EncoderInput(sequences[index], outputs) for index in wanted], timeout)
        try:
            # `wait_for` would hide from a request that it is cancelled, where its job ends in the same moment.
            async with asyncio.timeout(timeout):
                computed = await asyncio.wrap_future(job.future)
        except TimeoutError:
            raise errors.DeadlineExceededError("request timed out before its result was available") from None
        except NonFiniteOutputError as error:
            self._observe(OutputNotFinite())
            raise errors.NonFiniteOutputError("the network's output for this input is not finite") from error
        finally:
            if self._batcher is not None:
                self._batcher.cancel(job)
        self._observe(RequestComputed(tuple(job.sizes), job.queue_seconds, job.compute_seconds))
        for index, encoding in zip(wanted, computed, strict=True):
            known[index] = encoding
            if self._cache.keeps:
                self._cache.put(sequences[index], encoding)
        return [known[index] for index in range(len(sequences))], Timings(job.queue_seconds, job.compute_seconds)

    @property
    def pooling(self) -> Pooling:
        """Which output is a text's embedding: the setting's choice, else the preset's."""
        return self.options.pooling or self.require_ready().preset.pooling

    async def embed(
        self,
        sequences: Sequence[Tokens],
        timeout: float,  # noqa: ASYNC109 - as in `encode`
        *,
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> tuple[npt.NDArray[np.float32], Timings]:
        """Return one embedding a sequence: the output that `pooling` names.

        Args:
            sequences: As for `encode`, and the same errors.
            timeout: Seconds until the request is given up.
            normalize: Whether each has a Euclidean length of 1.
            dimensions: Leading components to keep, all by default; what is kept is normalised.

        Returns:
            `[len(sequences), dimensions]` float32, and what it took.
        """
        # Before the wait: accepted work is finished, even if the service then drains.
        output: Output = "pooled_output" if self.pooling == "pooled" else "mean_output"
        encodings, timings = await self.encode(sequences, timeout, frozenset((output,)))
        rows = [encoding.arrays[output] for encoding in encodings]
        size = sum(row.size for row in rows)
        return await self.run_sized(size, _stacked, rows, dimensions, normalize=normalize), timings

    def _submit(self, inputs: list[EncoderInput], timeout: float) -> Job[EncoderInput, Encoding]:
        if self._batcher is None:
            raise errors.NotReadyError("the model is loading", retry_after=1)
        sizes = [len(each.tokens.token_ids) for each in inputs]
        if sum(sizes) > self.options.max_queue_tokens:
            # No wait would ever help, so it is no overload.
            problem = f"has {sum(sizes)} tokens, but only {self.options.max_queue_tokens} may ever wait"
            raise errors.InvalidInputError.of([errors.Problem((), problem)])
        return self._batcher.submit(inputs, sizes, timeout)

    def _run(self, plan: BatchPlan, batch: list[EncoderInput]) -> list[Encoding]:
        """Run one batch, on the model thread."""
        started = time.perf_counter()
        encoder = self._encoder
        encodings = encoder.run(plan, batch)
        row_tokens = plan.row_tokens(encoder.row_lengths)
        self._observe(BatchRan(plan.tokens, len(batch), row_tokens, time.perf_counter() - started))
        return encodings

    @property
    def _encoder(self) -> PackedEncoder:
        if self.loaded is None:
            raise errors.NotReadyError("the model is loading")
        return self.loaded.encoder

    def _load(self) -> None:
        try:
            self._serve(self._load_model(self.options, lambda done, of: self._advance("compiling", done, of)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process must say so and end
            self._fail(error)

    def _serve(self, loaded: LoadedModel) -> None:
        """Take work."""
        self.loaded = loaded
        encoder = loaded.encoder
        batcher = Batcher(
            self._run,
            builder=encoder.batch_builder,
            key=lambda each: each.tokens.key,
            merge=_merged,
            max_queue_tokens=self.options.max_queue_tokens,
            canary=EncoderInput(Tokens(*np.zeros((2, 1), np.int32)), frozenset(("pooled_output",))),
            on_failure=self._fail,
            tokens_per_second=loaded.test.tokens_per_second,
        )
        batcher.start()
        backend_type(self.options.backend).on_compilation(lambda: self._observe(ProgramCompiled()))
        with self._state_lock:
            self._batcher = batcher
            if self._closing:
                batcher.drain()
            if self.state != "draining":
                self.state = "ready"
        log.info(
            "ready",
            preset=loaded.preset.name,
            backend=self.options.backend,
            dtype=self.options.dtype,
            row_lengths=list(encoder.row_lengths),
            batch_invariant=loaded.test.batch_invariant,
            numerics=loaded.test.numerics[:12],
            seconds=round(loaded.seconds, 1),
            **faster_settings(self.options, loaded),
        )

    def _advance(self, state: State, done: int, of: int) -> None:
        self.progress = (done, of)
        with self._state_lock:
            if self.state != "draining":
                self.state = state

    def _fail(self, error: BaseException) -> None:
        with self._state_lock:
            self.state = "failed"
        if isinstance(error, PresetError | SelfTestError | BackendError):
            log.error("cannot load the preset", preset=self.options.preset, reason=str(error))
        else:
            log.error("failed", exc_info=error)
        self._on_failure(error)


def _merged(one: EncoderInput, other: EncoderInput) -> EncoderInput:
    """Return the input that computes the outputs of both, which are for the same sequence."""
    return one if other.outputs <= one.outputs else EncoderInput(one.tokens, one.outputs | other.outputs)


def _stacked(
    rows: Sequence[npt.NDArray[np.float32]], dimensions: int | None, *, normalize: bool
) -> npt.NDArray[np.float32]:
    rows = [row[:dimensions] for row in rows]
    return np.stack([normalized(row) for row in rows] if normalize else rows)


def normalized(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the vector with a Euclidean length of 1; a zero vector stays zero."""
    length = np.sqrt(np.square(vector, dtype=np.float64).sum())
    return (vector / length).astype(np.float32) if length else vector
