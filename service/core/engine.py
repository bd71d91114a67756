"""The engine loads a preset, compiles its programs, and then tokenizes, queues and encodes sequences.

It uses four kinds of threads: the event loop calls `encode`; a few workers tokenize, parse and render; one model thread
runs the network; a loader thread loads the model and ends.
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
    TokenSequence,
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

# Enough to keep one core busy with text while the network uses the others.
_WORKER_THREADS = 2
# Many times the duration of a run of the largest network on a slow machine: a needless restart costs more than waiting.
_RUN_TIMEOUT_SECONDS = 120.0

# Input size whose handling takes 0.1 ms, which is the cost of a thread switch.
_INLINE_BYTES = 8192

log = structlog.get_logger("fnet.engine")


class Engine:
    """The lifecycle of one model: loading, encoding and shutdown.

    Args:
        options: Options of the engine.
        observe: Called with each event.
        on_failure: Called once, from any thread, if the engine fails.
        run_timeout: Seconds after which a run counts as hung.
        load: Loads the model, like `service.core.loader.load_model`.
    """

    def __init__(
        self,
        options: EngineOptions,
        observe: Observer = lambda _event: None,
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
        # A signal may start draining while the loader sets the state to ready.
        self._state_lock = threading.RLock()
        self._closing = False
        self._loader = threading.Thread(target=self._load, name="loader", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the engine has not failed."""
        return self.state != "failed"

    @property
    def stuck(self) -> bool:
        """Whether a thread that cannot be interrupted is still active: the loader, or a run that does not end."""
        return self._loader.is_alive() or (self._batcher is not None and self._batcher.stuck)

    @property
    def idle(self) -> bool:
        """Whether no accepted request is queued or running."""
        return self._batcher is None or self._batcher.idle

    @property
    def queue_tokens(self) -> int:
        """Number of queued tokens."""
        return 0 if self._batcher is None else self._batcher.queue_tokens

    @property
    def queue_requests(self) -> int:
        """Number of requests with at least one queued sequence."""
        return 0 if self._batcher is None else self._batcher.queue_jobs

    @property
    def result_bytes(self) -> int:
        """Size of the result cache in bytes."""
        return self._cache.nbytes

    def start(self) -> None:
        """Start loading in the background."""
        self._loader.start()

    def check_watchdog(self) -> None:
        """Fail if the current run exceeds its timeout. Callers invoke this several times per second."""
        if self._batcher is not None and self._watchdog.expired(self._batcher.run):
            self._batcher.fail(RuntimeError(f"a run has not ended within {self._watchdog.run_timeout:g} seconds"))

    def mark_unready(self) -> None:
        """Report not ready to probes, but keep accepting requests."""
        with self._state_lock:
            if self.state != "failed":
                self.state = "draining"

    def drain(self) -> None:
        """Reject new requests and finish the accepted ones."""
        self.mark_unready()
        with self._state_lock:
            self._closing = True
            if self._batcher is not None:
                self._batcher.drain()

    def cancel_pending(self) -> None:
        """Fail all pending requests, so that their clients get an error response."""
        self.drain()
        if self._batcher is not None:
            self._batcher.cancel_pending()

    def close(self) -> None:
        """Stop the threads and fail all pending requests."""
        self.drain()
        if self._batcher is not None:
            self._batcher.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def skip_shutdown_wait(self) -> None:
        """Make `close` return without waiting for a run."""
        if self._batcher is not None:
            self._batcher.skip_shutdown_wait()

    def require_ready(self) -> LoadedModel:
        """Return the model.

        Raises:
            NotReadyError, DrainingError, WorkerFailedError: The engine accepts no requests.
        """
        if self.state == "failed":
            raise errors.WorkerFailedError("the worker has failed", retry_after=5)
        if self._closing:
            raise errors.DrainingError("the service is shutting down", retry_after=1)
        if self.loaded is None or self.state in ("loading", "compiling"):
            raise errors.NotReadyError(f"the model is {self.state}", retry_after=1)
        return self.loaded

    def check_ready(self) -> None:
        """Raise the reason why the engine reports not ready to probes.

        During the shutdown delay the engine reports not ready but accepts requests.

        Raises:
            NotReadyError, DrainingError, WorkerFailedError: The engine is not ready.
        """
        self.require_ready()
        if self.state == "draining":
            raise errors.DrainingError("the service is shutting down", retry_after=1)

    async def run_in_worker(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, lambda: function(*args, **kwargs))

    async def run_sized(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function whose cost depends on `size` (bytes or values): inline if small, else on a worker thread."""
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
    ) -> list[TokenSequence]:
        """Tokenize texts off the event loop; see `service.core.inputs.from_texts`.

        Raises:
            InvalidInputError: A text is invalid.
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
        sequences: Sequence[TokenSequence],
        timeout: float,  # noqa: ASYNC109 - it also bounds the time in the queue
        outputs: frozenset[Output] = ALL_OUTPUTS,
    ) -> tuple[list[Encoding], Timings]:
        """Encode validated sequences. Outputs do not depend on the other sequences of the batch.

        Args:
            sequences: One or more sequences within the bounds of the network.
            timeout: Seconds after which the request times out.
            outputs: Outputs to compute.

        Returns:
            One encoding per sequence, and the timings of the request.

        Raises:
            OverloadedError: The sequences do not fit into the queue.
            InvalidInputError: The sequences exceed the size of the queue.
            DeadlineExceededError: The request timed out.
            NonFiniteOutputError: An output is not finite.
            NotReadyError, DrainingError, WorkerFailedError: The engine accepts no requests.
        """
        self.require_ready()
        encodings: dict[int, Encoding] = {}
        if self._cache.enabled:
            lookups = ((index, self._cache.get(tokens, outputs)) for index, tokens in enumerate(sequences))
            encodings = {index: cached for index, cached in lookups if cached}
        missing = [index for index in range(len(sequences)) if index not in encodings]
        if self._cache.enabled:
            self._observe(ResultsLookedUp(len(encodings), len(missing)))
        if not missing:
            return list(encodings.values()), Timings()
        job = self._submit([EncoderInput(sequences[index], outputs) for index in missing], timeout)
        try:
            # `wait_for` swallows the cancellation of a request whose job ends at the same time.
            async with asyncio.timeout(timeout):
                computed = await asyncio.wrap_future(job.future)
        except TimeoutError:
            raise errors.DeadlineExceededError(f"request timed out after {round(timeout, 2):g} s") from None
        except NonFiniteOutputError as error:
            self._observe(OutputNotFinite())
            raise errors.NonFiniteOutputError("the output for this input is not finite (NaN or infinity)") from error
        finally:
            if self._batcher is not None:
                self._batcher.cancel(job)
        self._observe(RequestComputed(tuple(job.sizes), job.queue_seconds, job.compute_seconds))
        for index, encoding in zip(missing, computed, strict=True):
            encodings[index] = encoding
            if self._cache.enabled:
                self._cache.put(sequences[index], encoding)
        return [encodings[index] for index in range(len(sequences))], Timings(job.queue_seconds, job.compute_seconds)

    @property
    def pooling(self) -> Pooling:
        """Output that serves as embedding: the setting if present, else the choice of the preset."""
        return self.options.pooling or self.require_ready().preset.pooling

    async def embed(
        self,
        sequences: Sequence[TokenSequence],
        timeout: float,  # noqa: ASYNC109 - as in `encode`
        *,
        normalize: bool = True,
        dimensions: int | None = None,
    ) -> tuple[npt.NDArray[np.float32], Timings]:
        """Return one embedding per sequence: the output that `pooling` names.

        Args:
            sequences: One or more sequences within the bounds of the network.
            timeout: Seconds after which the request times out.
            normalize: Whether to L2-normalize the embeddings, after the reduction to `dimensions`.
            dimensions: Number of leading components to return; all by default.

        Returns:
            Embeddings, float32 `[len(sequences), dimensions]`, and the timings of the request.

        Raises:
            ServiceError: Same errors as `encode`.
        """
        # Read before the wait: an accepted request completes even if the service starts draining.
        output: Output = "pooled_output" if self.pooling == "pooled" else "mean_output"
        encodings, timings = await self.encode(sequences, timeout, frozenset((output,)))
        rows = [encoding.arrays[output] for encoding in encodings]
        size = sum(row.size for row in rows)
        return await self.run_sized(size, _stack, rows, dimensions, normalize=normalize), timings

    def _submit(self, inputs: list[EncoderInput], timeout: float) -> Job[EncoderInput, Encoding]:
        if self._batcher is None:
            raise errors.NotReadyError("the model is loading", retry_after=1)
        sizes = [len(encoder_input.tokens.token_ids) for encoder_input in inputs]
        if sum(sizes) > self.options.max_queue_tokens:
            # A retry cannot succeed, so the request is invalid instead of rejected as overload.
            problem = (
                f"{sum(sizes)} tokens exceed the queue size of {self.options.max_queue_tokens}; "
                "send fewer sequences per request"
            )
            raise errors.InvalidInputError.of([errors.Problem((), problem)])
        return self._batcher.submit(inputs, sizes, timeout)

    def _run(self, plan: BatchPlan, batch: list[EncoderInput]) -> list[Encoding]:
        """Run one batch on the model thread."""
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
        except BaseException as error:  # noqa: BLE001 - any error must be logged and end the process
            self._fail(error)

    def _serve(self, loaded: LoadedModel) -> None:
        """Start the batcher of a loaded model and set the state to ready."""
        self.loaded = loaded
        encoder = loaded.encoder
        batcher = Batcher(
            self._run,
            builder=encoder.batch_builder,
            key=lambda encoder_input: encoder_input.tokens.key,
            merge=_merged,
            max_queue_tokens=self.options.max_queue_tokens,
            canary=EncoderInput(TokenSequence(*np.zeros((2, 1), np.int32)), frozenset(("pooled_output",))),
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
            log.error("model worker failed", detail=str(error), exc_info=error)
        self._on_failure(error)


def _merged(one: EncoderInput, other: EncoderInput) -> EncoderInput:
    """Return an input that computes the outputs of two inputs for the same sequence."""
    return one if other.outputs <= one.outputs else EncoderInput(one.tokens, one.outputs | other.outputs)


def _stack(
    rows: Sequence[npt.NDArray[np.float32]], dimensions: int | None, *, normalize: bool
) -> npt.NDArray[np.float32]:
    rows = [row[:dimensions] for row in rows]
    return np.stack([normalized(row) for row in rows] if normalize else rows)


def normalized(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """L2-normalize a vector; a zero vector stays zero."""
    length = np.sqrt(np.square(vector, dtype=np.float64).sum())
    return (vector / length).astype(np.float32) if length else vector
