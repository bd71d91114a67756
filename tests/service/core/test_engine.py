"""The engine: loading, encoding and shutdown, without HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import structlog

from model.backbone import FNetBackbone
from model.backends.base import BackendError
from model.encoder import ALL_OUTPUTS, Encoding, Output, PackedEncoder, TokenSequence
from model.errors import PresetError
from model.selftest import SelfTest, compile_and_verify
from service.core import errors
from service.core.engine import Engine
from service.core.events import (
    BatchRan,
    Event,
    OutputNotFinite,
    RequestComputed,
    ResultsLookedUp,
    TextsTokenized,
    Timings,
)
from service.core.inputs import Text
from tests.support.bundled import POISON
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

    MakeEngine = Callable[..., Engine]
    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]
    WaitUntil = Callable[[Callable[[], bool]], None]


def tokens(*lengths: int, seed: int = 0) -> list[TokenSequence]:
    """Return random sequences of the given lengths, with segments."""
    random = np.random.default_rng(seed)
    return [
        TokenSequence(random.integers(0, POISON, n).astype(np.int32), random.integers(0, 3, n).astype(np.int32))
        for n in lengths
    ]


def same_bits(one: Sequence[Encoding], other: Sequence[Encoding]) -> bool:
    """Return whether all outputs are equal to the last bit."""
    return len(one) == len(other) and all(
        np.array_equal(a.sequence_output, b.sequence_output) and np.array_equal(a.pooled_output, b.pooled_output)
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def events(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Events of the shared engine during a test."""
    observed: list[Event] = []
    monkeypatch.setattr(service.engine, "_observe", observed.append)
    return observed


# === Loading ===


def test_engine_loads_and_compiles_until_ready(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """State and progress change in order; until then, `require_ready` raises."""
    engine = make_engine(smallest_preset, ready=False)
    assert (engine.state, engine.progress, engine.alive, engine.idle) == ("loading", (0, 0), True, True)
    assert (engine.queue_tokens, engine.queue_requests) == (0, 0)
    with pytest.raises(errors.NotReadyError) as caught:
        engine.require_ready()
    assert caught.value.retry_after
    engine.start()
    states = ["loading"]
    end = time.monotonic() + TIMEOUT
    while engine.state not in ("ready", "failed"):
        assert time.monotonic() < end
        if engine.state != states[-1]:
            states.append(engine.state)
        time.sleep(0.0005)
    assert states == ["loading", "compiling"]
    assert engine.state == "ready"
    loaded = engine.require_ready()
    assert engine.progress == (2, 2)
    assert loaded.test.row_lengths == loaded.encoder.row_lengths
    assert sorted([*loaded.test.row_lengths, *loaded.test.disabled]) == [8, 16]
    assert loaded.tokenizer is None
    assert len(loaded.digest) == 64
    assert loaded.seconds > 0


def test_random_weights_log_a_warning(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """Without the weights of the preset, the engine runs and has no digest."""
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(smallest_preset, load_weights=False)
    assert engine.require_ready().digest == ""
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "weights not loaded"
    assert "random" in warning["detail"]


def test_untrained_preset_logs_a_warning(make_engine: MakeEngine, smallest_preset: Path, tmp_path: Path) -> None:
    """The warning follows the metadata of the preset."""
    untrained = shutil.copytree(smallest_preset, tmp_path / "untrained")
    (untrained / "metadata.json").write_text('{"fnet_service": {"trained": false}}')
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(untrained)
    assert engine.state == "ready"
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["preset not trained"]


@pytest.mark.parametrize("faster", ["FNET_BACKEND=openvino", None])
def test_ready_event_describes_the_model(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch, faster: str | None
) -> None:
    """The event names a faster combination if one is installed."""
    monkeypatch.setattr("service.core.loader.faster_choice", lambda _architecture, _backend, _dtype: faster)
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(smallest_preset)
        test = engine.require_ready().test
        expected = {
            "event": "ready",
            "log_level": "info",
            "preset": "smallest_en",
            "backend": "jax",
            "dtype": "float32",
            "row_lengths": list(test.row_lengths),
            "batch_invariant": test.batch_invariant,
            "numerics": test.numerics[:12],
            "seconds": round(engine.require_ready().seconds, 1),
        } | ({"faster": faster} if faster else {})
        # The event follows the state, and the engine of another test may become ready meanwhile.
        end = time.monotonic() + TIMEOUT
        while expected not in logs:
            assert time.monotonic() < end, logs
            time.sleep(0.01)


@pytest.fixture
def replace_self_test(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace fields of the result of the self-test."""

    def replace(**fields: Any) -> None:
        def verify(*arguments: Any, **options: Any) -> SelfTest:
            return dataclasses.replace(compile_and_verify(*arguments, **options), **fields)

        monkeypatch.setattr("service.core.loader.compile_and_verify", verify)

    return replace


def test_disabled_row_length_is_logged(
    make_engine: MakeEngine, smallest_preset: Path, replace_self_test: Callable[..., None]
) -> None:
    """The event is informational, because outputs stay exact."""
    replace_self_test(disabled={8: "not bit-identical to the longest row"})
    with structlog.testing.capture_logs() as logs:
        make_engine(smallest_preset)
    (entry,) = [entry for entry in logs if entry["event"] == "row length disabled"]
    assert (entry["log_level"], entry["row_length"]) == ("info", 8)
    assert entry["reason"] == "not bit-identical to the longest row"
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("required", [True, False])
def test_missing_batch_invariance_logs_a_warning_if_required(
    make_engine: MakeEngine, smallest_preset: Path, replace_self_test: Callable[..., None], *, required: bool
) -> None:
    """No warning is logged if the setting disables the guarantee."""
    replace_self_test(batch_invariant=False)
    with structlog.testing.capture_logs() as logs:
        make_engine(smallest_preset, batch_invariant=required)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["not batch-invariant"] * required
    assert all("depend on the rest of its batch" in entry["detail"] for entry in warnings)


def test_unsupported_backend_fails_the_engine(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log contains the message in one line without a stack trace."""

    def refuse(*_arguments: Any, **_options: Any) -> PackedEncoder:
        raise BackendError("int8 is not available on this processor: use FNET_DTYPE=float32")

    monkeypatch.setattr("service.core.loader.PackedEncoder", refuse)
    failures: list[BaseException] = []
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(smallest_preset, on_failure=failures.append)
    assert (engine.state, [type(failure) for failure in failures]) == ("failed", [BackendError])
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["reason"] == "int8 is not available on this processor: use FNET_DTYPE=float32"
    assert "exc_info" not in entry


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", "{"), ("config.json", None), ("model.weights.h5", "no weights"), ("model.weights.h5", None)],
)
def test_invalid_preset_fails_the_engine(
    make_engine: MakeEngine, smallest_preset: Path, tmp_path: Path, file: str, content: str | None
) -> None:
    """The failure is reported once, the log names the file, and requests are rejected."""
    broken = shutil.copytree(smallest_preset, tmp_path / "broken")
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_text(content)
    failures: list[BaseException] = []
    failed = threading.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    with structlog.testing.capture_logs() as logs:
        engine = make_engine(broken, on_failure=on_failure)
        assert failed.wait(TIMEOUT)
    assert (engine.state, engine.alive) == ("failed", False)
    assert [type(error) for error in failures] == [PresetError]
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["reason"].startswith(f"{file}: ")
    assert "exc_info" not in entry
    with pytest.raises(errors.WorkerFailedError):
        engine.require_ready()
    engine.drain()
    assert engine.state == "failed"


# === Encoding ===


def test_outputs_match_the_backbone(service: Service, tiny_preset: Path) -> None:
    """Each sequence of a batch has the outputs of an unpadded run on its own."""
    backbone = FNetBackbone.from_preset(tiny_preset)
    sequences = tokens(1, 2, 17, 33, 64, 5)
    encodings, _ = service.run(service.engine.encode(sequences, TIMEOUT))
    for sequence, encoding in zip(sequences, encodings, strict=True):
        sequence_output, pooled_output = backbone.encode_one(*sequence)
        np.testing.assert_allclose(encoding.sequence_output, sequence_output, atol=1e-4)
        np.testing.assert_allclose(encoding.pooled_output, pooled_output, atol=1e-4)
        np.testing.assert_allclose(encoding.mean_output, sequence_output.mean(axis=0), atol=1e-4)


def test_outputs_do_not_depend_on_batch_composition(service: Service) -> None:
    """A sequence has bit-identical outputs in ten concurrent requests and alone."""
    assert service.engine.require_ready().test.batch_invariant
    (sequence,) = tokens(23)

    async def encode_concurrently() -> list[list[Encoding]]:
        work = [service.engine.encode([sequence, *tokens(n, seed=n)], TIMEOUT) for n in range(1, 11)]
        return [encodings for encodings, _ in await asyncio.gather(*work)]

    alone, _ = service.run(service.engine.encode([sequence], TIMEOUT))
    assert all(same_bits(encodings[:1], alone) for encodings in service.run(encode_concurrently()))


def test_events_describe_runs_and_requests(service: Service, events: list[Event]) -> None:
    """The engine emits one event per run and one per request."""
    _, timings = service.run(service.engine.encode(tokens(10, 20), TIMEOUT))
    ran, computed = events
    assert isinstance(ran, BatchRan)
    assert (ran.tokens, ran.sequences) == (30, 2)
    assert ran.row_tokens >= ran.tokens
    assert isinstance(computed, RequestComputed)
    assert computed.lengths == (10, 20)
    assert timings == Timings(computed.queue_seconds, computed.compute_seconds)
    assert timings.compute >= ran.seconds > 0


def test_texts_are_tokenized_on_a_worker_thread(service: Service, events: list[Event]) -> None:
    """The engine emits an event for the tokenization."""
    loop_thread = threading.get_ident()
    assert service.run(service.engine.run_in_worker(threading.get_ident)) != loop_thread
    (tokenized,) = service.run(service.engine.tokenize([Text("a dog")], truncate=False, padding=None))
    assert len(tokenized.token_ids) > 2
    assert [type(event) for event in events] == [TextsTokenized]


def test_request_larger_than_the_queue_is_invalid(service: Service) -> None:
    """A retry cannot succeed, so the error has no Retry-After."""
    with pytest.raises(errors.InvalidInputError, match="2368 tokens exceed the queue size of 2304"):
        service.run(service.engine.encode(tokens(*[64] * 37), TIMEOUT))


def test_non_finite_output_fails_only_its_request(service: Service, events: list[Event]) -> None:
    """Other requests of the same batch get bit-identical results."""
    good = tokens(5, 6)
    bad = TokenSequence(np.array([1, POISON, 2], np.int32), np.zeros(3, np.int32))

    async def encode_concurrently() -> list[tuple[list[Encoding], Timings] | BaseException]:
        work = [service.engine.encode([sequence], TIMEOUT) for sequence in (good[0], bad, good[1])]
        return await asyncio.gather(*work, return_exceptions=True)

    first, failed, second = service.run(encode_concurrently())
    assert isinstance(failed, errors.NonFiniteOutputError)
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert OutputNotFinite() in events
    alone, _ = service.run(service.engine.encode(good, TIMEOUT))
    assert same_bits([*first[0], *second[0]], alone)


# === Failure, cancellation and shutdown ===


def test_engine_fails_if_the_model_thread_does_not_start(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after loading is reported like a failure during loading."""
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "model":
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    failures: list[BaseException] = []
    failed = threading.Event()

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    engine = make_engine(smallest_preset, on_failure=on_failure, ready=False)
    engine.start()
    assert failed.wait(TIMEOUT)
    assert [str(failure) for failure in failures] == ["can't start new thread"]
    assert engine.state == "failed"


def test_failure_during_the_start_of_a_drain_stays_a_failure(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """The state stays `failed` if the failure is concurrent with the drain."""
    engine = make_engine(smallest_preset, ready=False)
    failing = threading.Thread(target=engine._fail, args=[RuntimeError("concurrent failure")])

    class RacingState(str):
        """A state that another thread tries to change just after a comparison."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            differs = str.__ne__(self, other)
            failing.start()
            failing.join(0.2)
            return differs

    engine.state = RacingState("ready")  # type: ignore[assignment] # equal to a literal
    engine.mark_unready()
    failing.join(TIMEOUT)
    assert (engine.state, engine.alive) == ("failed", False)


def test_timed_out_request_leaves_the_queue(make_blocked_service: MakeBlockedService) -> None:
    """The request fails at its deadline, and its tokens leave the queue."""
    blocked, gate = make_blocked_service()

    async def wait() -> None:
        running = asyncio.ensure_future(blocked.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        with pytest.raises(errors.DeadlineExceededError):
            await blocked.engine.encode(tokens(64, 64), 0.05)
        assert blocked.engine.queue_tokens == 0
        gate.opened.set()
        await running

    blocked.run(wait())


def test_cancelled_request_leaves_the_queue(
    make_blocked_service: MakeBlockedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens leave the queue at once, and the request does not run."""
    blocked, gate = make_blocked_service()
    events: list[Event] = []
    monkeypatch.setattr(blocked.engine, "_observe", events.append)

    async def cancel() -> None:
        running = asyncio.ensure_future(blocked.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(blocked.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        assert blocked.engine.queue_tokens == 64
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (blocked.engine.queue_tokens, blocked.engine.queue_requests) == (0, 0)
        gate.opened.set()
        await running

    blocked.run(cancel())
    assert [type(event) for event in events] == [RequestComputed]


def test_drain_finishes_accepted_requests_and_rejects_new_ones(
    make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """The engine is idle after the last accepted request."""
    blocked, gate = make_blocked_service()

    async def drain() -> None:
        running = asyncio.ensure_future(blocked.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(blocked.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        blocked.engine.drain()
        assert (blocked.engine.state, blocked.engine.alive, blocked.engine.idle) == ("draining", True, False)
        with pytest.raises(errors.DrainingError):
            await blocked.engine.encode(tokens(1), TIMEOUT)
        gate.opened.set()
        assert len((await running)[0]) == len((await waiting)[0]) == 1
        await asyncio.to_thread(wait_until, lambda: blocked.engine.idle)

    blocked.run(drain())


def test_close_fails_queued_requests(make_blocked_service: MakeBlockedService) -> None:
    """Queued requests fail with `draining`."""
    blocked, gate = make_blocked_service()

    async def close() -> None:
        running = asyncio.ensure_future(blocked.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(blocked.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(blocked.engine.close))
        with pytest.raises(errors.DrainingError):
            await waiting
        gate.opened.set()
        await closing
        await asyncio.gather(running, return_exceptions=True)

    blocked.run(close())


def test_failure_of_the_model_thread_fails_the_engine(
    make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """Waiting requests fail, the failure is reported once, and new requests are rejected."""
    blocked, gate = make_blocked_service()
    gate.death = SystemExit("the thread ends")
    gate.opened.set()
    with pytest.raises(errors.WorkerFailedError):
        blocked.run(blocked.engine.encode(tokens(5), TIMEOUT))
    with pytest.raises(errors.WorkerFailedError):
        blocked.run(blocked.engine.encode(tokens(5), TIMEOUT))

    wait_until(lambda: bool(blocked.app.state.failures))
    assert blocked.app.state.failures == [gate.death]
    assert (blocked.engine.state, blocked.engine.alive) == ("failed", False)


# === Result cache ===


def test_cached_results_serve_repeated_inputs(
    make_engine: MakeEngine, smallest_preset: Path, runner: asyncio.Runner
) -> None:
    """Cached sequences do not run; results are bit-identical."""
    events: list[Event] = []
    engine = make_engine(smallest_preset, events.append, result_cache_bytes=1 << 20)
    cached, new = tokens(3, 16), tokens(7, seed=1)

    def batches() -> list[tuple[int, int]]:
        return [(event.sequences, event.tokens) for event in events if isinstance(event, BatchRan)]

    first, _ = runner.run(engine.encode(cached, TIMEOUT))
    ran = batches()
    again, timings = runner.run(engine.encode(cached, TIMEOUT))
    assert same_bits(again, first)
    assert (batches(), timings) == (ran, Timings())
    mixed, _ = runner.run(engine.encode([cached[1], new[0], cached[0]], TIMEOUT))
    assert batches() == [*ran, (1, 7)]
    assert same_bits([mixed[0], mixed[2]], [first[1], first[0]])
    fresh, _ = runner.run(engine.encode(new, TIMEOUT))
    assert same_bits(mixed[1:2], fresh)
    looked_up = [(event.hits, event.misses) for event in events if isinstance(event, ResultsLookedUp)]
    assert looked_up == [(0, 2), (2, 0), (2, 1), (1, 0)]
    assert 0 < engine.result_bytes <= 1 << 20


def test_cached_result_serves_requests_for_fewer_outputs(
    make_engine: MakeEngine, smallest_preset: Path, runner: asyncio.Runner
) -> None:
    """A further output of a cached sequence is computed and cached with the others."""
    events: list[Event] = []
    engine = make_engine(smallest_preset, events.append, result_cache_bytes=1 << 20)
    cached = tokens(9)

    def runs() -> int:
        return sum(isinstance(event, BatchRan) for event in events)

    def encode(*outputs: Output) -> Encoding:
        ((encoding,), _) = runner.run(engine.encode(cached, TIMEOUT, frozenset(outputs)))
        return encoding

    pooled = encode("pooled_output")
    assert encode("pooled_output").pooled_output is pooled.pooled_output
    assert runs() == 1
    mean = encode("mean_output")
    assert runs() == 2
    both = encode("pooled_output", "mean_output")
    assert runs() == 2
    assert both.pooled_output is pooled.pooled_output
    assert both.mean_output is mean.mean_output
    encode("pooled_output", "sequence_output")
    assert runs() == 3
    assert same_bits([encode(*ALL_OUTPUTS)], runner.run(make_engine(smallest_preset).encode(cached, TIMEOUT))[0])
    assert runs() == 3


def test_equal_sequences_in_flight_are_computed_once(
    make_blocked_service: MakeBlockedService, runner: asyncio.Runner
) -> None:
    """One run serves all concurrent requests with bit-identical results."""
    blocked, gate = make_blocked_service()
    (first,) = tokens(9)

    async def encode_concurrently() -> list[list[Encoding]]:
        requests = [asyncio.ensure_future(blocked.engine.encode([first], TIMEOUT)) for _ in range(20)]
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        gate.opened.set()
        return [encodings for encodings, _ in await asyncio.gather(*requests)]

    results = runner.run(encode_concurrently())
    assert gate.sizes == [1]
    for result in results:
        assert same_bits(result, results[0])


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "running"])
def test_requests_for_different_outputs_of_a_sequence(
    make_blocked_service: MakeBlockedService, runner: asyncio.Runner, *, waits: bool
) -> None:
    """Queued requests share a run; a running request without the output is not shared."""
    blocked, gate = make_blocked_service()
    (sequence, other) = tokens(9, 7)
    pooled, both = frozenset[Output](("pooled_output",)), frozenset[Output](("mean_output", "sequence_output"))

    async def encode(sequence: TokenSequence, outputs: frozenset[Output]) -> Encoding:
        (encoding,), _ = await blocked.engine.encode([sequence], TIMEOUT, outputs)
        return encoding

    async def encode_concurrently() -> list[Encoding]:
        requests = [asyncio.ensure_future(encode(other, both))] if waits else []
        requests += [] if waits else [asyncio.ensure_future(encode(sequence, pooled))]
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        late = ([pooled] if waits else []) + [both]
        requests += [asyncio.ensure_future(encode(sequence, outputs)) for outputs in late]
        await asyncio.sleep(0)
        assert blocked.engine.queue_tokens == 9
        gate.opened.set()
        return (await asyncio.gather(*requests))[-2:]

    first, second = blocked.run(encode_concurrently())
    assert gate.outputs == ([[both], [pooled | both]] if waits else [[pooled], [both]])
    (alone,) = blocked.run(blocked.engine.encode([sequence], TIMEOUT))[0]
    assert first.pooled_output.tobytes() == alone.pooled_output.tobytes()
    assert second.mean_output.tobytes() == alone.mean_output.tobytes()
    assert second.sequence_output.tobytes() == alone.sequence_output.tobytes()


# === Memory of results ===


@pytest.mark.parametrize("output", ["pooled_output", "mean_output"])
def test_result_retains_only_the_requested_output(service: Service, output: Output) -> None:
    """A pooled result does not reference token outputs or the arrays of the batch."""
    hidden = service.engine.require_ready().preset.architecture.hidden_dim
    sequences = tokens(*[60] * 20, *range(1, 40))
    encodings, _ = service.run(service.engine.encode(sequences, TIMEOUT, frozenset((output,))))
    for encoding in encodings:
        assert list(encoding.arrays) == [output]
        assert encoding.arrays[output].base is None
        assert encoding.nbytes == hidden * 4


def test_token_outputs_are_separate_arrays(service: Service) -> None:
    """A result does not reference the other sequences of its row."""
    encodings, _ = service.run(service.engine.encode(tokens(3, 20, 7), TIMEOUT))
    assert all(array.base is None for encoding in encodings for array in encoding.arrays.values())


def test_results_are_read_only(service: Service) -> None:
    """Several requests may share one result."""
    ((encoding,), _) = service.run(service.engine.encode(tokens(5), TIMEOUT))
    assert not any(array.flags.writeable for array in encoding.arrays.values())
