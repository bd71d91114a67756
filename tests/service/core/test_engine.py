"""One model from its loading to its last answer, without HTTP around it."""

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
from model.encoder import ALL_OUTPUTS, Encoding, Output, PackedEncoder, Tokens
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


def tokens(*lengths: int, seed: int = 0) -> list[Tokens]:
    """Return random sequences of the given lengths, with segments."""
    random = np.random.default_rng(seed)
    return [
        Tokens(random.integers(0, POISON, n).astype(np.int32), random.integers(0, 3, n).astype(np.int32))
        for n in lengths
    ]


def same_bits(one: Sequence[Encoding], other: Sequence[Encoding]) -> bool:
    """Return whether all outputs are equal to the last bit."""
    return len(one) == len(other) and all(
        np.array_equal(a.sequence_output, b.sequence_output) and np.array_equal(a.pooled_output, b.pooled_output)
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def records(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What the shared engine tells of its work during a test."""
    told: list[Event] = []
    monkeypatch.setattr(service.engine, "_observe", told.append)
    return told


# === Becoming ready ===


def test_an_engine_loads_compiles_and_is_ready(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """Its state and progress tell how far it is, and until it is ready it says so to whoever asks."""
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


def test_random_weights_are_warned_of(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """Without the preset's weights the engine runs, with no digest, and the log says what that means."""
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(smallest_preset, load_weights=False)
    assert engine.require_ready().digest == ""
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "weights not loaded"
    assert "random" in warning["meaning"]


def test_an_untrained_preset_is_warned_of(make_engine: MakeEngine, smallest_preset: Path, tmp_path: Path) -> None:
    """What its metadata says is told at each start."""
    untrained = shutil.copytree(smallest_preset, tmp_path / "untrained")
    (untrained / "metadata.json").write_text('{"fnet_service": {"trained": false}}')
    with structlog.testing.capture_logs() as logs:
        engine = make_engine(untrained)
    assert engine.state == "ready"
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["preset not trained"]


@pytest.mark.parametrize("faster", ["FNET_BACKEND=openvino", None])
def test_ready_event_describes_what_runs(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch, faster: str | None
) -> None:
    """It names a faster choice that is installed and unused, if there is one."""
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
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace fields of the self-test's result."""

    def replace(**fields: Any) -> None:
        def verify(*arguments: Any, **options: Any) -> SelfTest:
            return dataclasses.replace(compile_and_verify(*arguments, **options), **fields)

        monkeypatch.setattr("service.core.loader.compile_and_verify", verify)

    return replace


def test_disabled_row_length_is_logged(
    make_engine: MakeEngine, smallest_preset: Path, judge: Callable[..., None]
) -> None:
    """It costs a little speed and no exactness: no warning."""
    judge(disabled={8: "not bit-identical to the longest row"})
    with structlog.testing.capture_logs() as logs:
        make_engine(smallest_preset)
    (entry,) = [entry for entry in logs if entry["event"] == "row length disabled"]
    assert (entry["log_level"], entry["row_length"]) == ("info", 8)
    assert entry["reason"] == "not bit-identical to the longest row"
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("required", [True, False])
def test_missing_batch_invariance_is_a_warning_where_it_is_required(
    make_engine: MakeEngine, smallest_preset: Path, judge: Callable[..., None], *, required: bool
) -> None:
    """Whoever turned the guarantee off is not warned."""
    judge(batch_invariant=False)
    with structlog.testing.capture_logs() as logs:
        make_engine(smallest_preset, batch_invariant=required)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["not batch-invariant"] * required
    assert all("depend on the rest of its batch" in entry["detail"] for entry in warnings)


def test_backend_that_cannot_run_fails_the_engine(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has its message in one line, and no trace."""

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
def test_a_broken_preset_fails_the_engine(
    make_engine: MakeEngine, smallest_preset: Path, tmp_path: Path, file: str, content: str | None
) -> None:
    """It is told once, the log names the file in one line, and nobody is let in."""
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


def test_an_encoding_is_what_the_backbone_gives_for_the_sequence_alone(service: Service, tiny_preset: Path) -> None:
    """Any lengths, asked for together: each is as if alone and unpadded."""
    backbone = FNetBackbone.from_preset(tiny_preset)
    sequences = tokens(1, 2, 17, 33, 64, 5)
    encodings, _ = service.run(service.engine.encode(sequences, TIMEOUT))
    for sequence, encoding in zip(sequences, encodings, strict=True):
        sequence_output, pooled_output = backbone.encode_one(*sequence)
        np.testing.assert_allclose(encoding.sequence_output, sequence_output, atol=1e-4)
        np.testing.assert_allclose(encoding.pooled_output, pooled_output, atol=1e-4)
        np.testing.assert_allclose(encoding.mean_output, sequence_output.mean(axis=0), atol=1e-4)


def test_company_does_not_change_a_bit(service: Service) -> None:
    """The same sequence in ten requests at once and alone has equal outputs."""
    assert service.engine.require_ready().test.batch_invariant
    (sequence,) = tokens(23)

    async def together() -> list[list[Encoding]]:
        work = [service.engine.encode([sequence, *tokens(n, seed=n)], TIMEOUT) for n in range(1, 11)]
        return [encodings for encodings, _ in await asyncio.gather(*work)]

    alone, _ = service.run(service.engine.encode([sequence], TIMEOUT))
    assert all(same_bits(encodings[:1], alone) for encodings in service.run(together()))


def test_work_is_told_of(service: Service, records: list[Event]) -> None:
    """One record a run, and one a request that adds up to it."""
    _, timings = service.run(service.engine.encode(tokens(10, 20), TIMEOUT))
    ran, computed = records
    assert isinstance(ran, BatchRan)
    assert (ran.tokens, ran.sequences) == (30, 2)
    assert ran.row_tokens >= ran.tokens
    assert isinstance(computed, RequestComputed)
    assert computed.lengths == (10, 20)
    assert timings == Timings(computed.queue_seconds, computed.compute_seconds)
    assert timings.compute >= ran.seconds > 0


def test_texts_are_tokenised_off_the_event_loop(service: Service, records: list[Event]) -> None:
    """By another thread, and told of."""
    loop_thread = threading.get_ident()
    assert service.run(service.engine.run_in_worker(threading.get_ident)) != loop_thread
    (made,) = service.run(service.engine.tokenize([Text("a dog")], truncate=False, padding=None))
    assert len(made.token_ids) > 2
    assert [type(record) for record in records] == [TextsTokenized]


def test_a_request_that_can_never_wait_is_invalid(service: Service) -> None:
    """More tokens than the queue may hold: no Retry-After would be true."""
    with pytest.raises(errors.InvalidInputError, match="may ever wait"):
        service.run(service.engine.encode(tokens(*[64] * 37), TIMEOUT))


def test_an_output_that_is_not_finite_fails_alone(service: Service, records: list[Event]) -> None:
    """Whoever shared the row with it gets results, the very ones that it gets alone."""
    good = tokens(5, 6)
    bad = Tokens(np.array([1, POISON, 2], np.int32), np.zeros(3, np.int32))

    async def together() -> list[tuple[list[Encoding], Timings] | BaseException]:
        work = [service.engine.encode([sequence], TIMEOUT) for sequence in (good[0], bad, good[1])]
        return await asyncio.gather(*work, return_exceptions=True)

    first, failed, second = service.run(together())
    assert isinstance(failed, errors.NonFiniteOutputError)
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert OutputNotFinite() in records
    alone, _ = service.run(service.engine.encode(good, TIMEOUT))
    assert same_bits([*first[0], *second[0]], alone)


# === Leaving ===


def test_a_model_thread_that_does_not_start_fails_the_engine(
    make_engine: MakeEngine, smallest_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails behind the loading is told, too: nobody waits for a service that never becomes ready."""
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "model":
            raise RuntimeError("can't start new thread")
        begin(thread)

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


def test_a_failure_while_a_drain_begins_is_no_drain(make_engine: MakeEngine, smallest_preset: Path) -> None:
    """What has failed stays so, and liveness says it, in whatever moment it comes."""
    engine = make_engine(smallest_preset, ready=False)
    failing = threading.Thread(target=engine._fail, args=[RuntimeError("in that very moment")])

    class Looked(str):
        """A state that changes, if it may, just after somebody has looked at it."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            differs = str.__ne__(self, other)
            failing.start()
            failing.join(0.2)
            return differs

    engine.state = Looked("ready")  # type: ignore[assignment] # none of the literals, but equal to one
    engine.mark_unready()
    failing.join(TIMEOUT)
    assert (engine.state, engine.alive) == ("failed", False)


def test_time_that_is_up_is_an_error_of_its_own(make_blocked_service: MakeBlockedService) -> None:
    """The waiter is told on time, and its place in the queue is free."""
    held, gate = make_blocked_service()

    async def wait() -> None:
        running = asyncio.ensure_future(held.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        with pytest.raises(errors.DeadlineExceededError):
            await held.engine.encode(tokens(64, 64), 0.05)
        assert held.engine.queue_tokens == 0
        gate.opened.set()
        await running

    held.run(wait())


def test_a_request_that_is_cancelled_leaves_the_queue(
    make_blocked_service: MakeBlockedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is free at once, and it does not run."""
    held, gate = make_blocked_service()
    told: list[Event] = []
    monkeypatch.setattr(held.engine, "_observe", told.append)

    async def leave() -> None:
        running = asyncio.ensure_future(held.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(held.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        assert held.engine.queue_tokens == 64
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (held.engine.queue_tokens, held.engine.queue_requests) == (0, 0)
        gate.opened.set()
        await running

    held.run(leave())
    assert [type(record) for record in told] == [RequestComputed]


def test_draining_finishes_the_old_and_refuses_the_new(
    make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """The engine is idle when the last accepted request is answered."""
    held, gate = make_blocked_service()

    async def drain() -> None:
        running = asyncio.ensure_future(held.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(held.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        held.engine.drain()
        assert (held.engine.state, held.engine.alive, held.engine.idle) == ("draining", True, False)
        with pytest.raises(errors.DrainingError):
            await held.engine.encode(tokens(1), TIMEOUT)
        gate.opened.set()
        assert len((await running)[0]) == len((await waiting)[0]) == 1
        await asyncio.to_thread(wait_until, lambda: held.engine.idle)

    held.run(drain())


def test_closing_leaves_nobody_waiting(make_blocked_service: MakeBlockedService) -> None:
    """What could not run fails as draining."""
    held, gate = make_blocked_service()

    async def close() -> None:
        running = asyncio.ensure_future(held.engine.encode(tokens(5), TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = asyncio.ensure_future(held.engine.encode(tokens(64), TIMEOUT))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(held.engine.close))
        with pytest.raises(errors.DrainingError):
            await waiting
        gate.opened.set()
        await closing
        await asyncio.gather(running, return_exceptions=True)

    held.run(close())


def test_a_dead_model_thread_fails_the_engine(make_blocked_service: MakeBlockedService, wait_until: WaitUntil) -> None:
    """The waiter is told, the process is told once, and nobody is let in any more."""
    held, gate = make_blocked_service()
    gate.death = SystemExit("the thread ends")
    gate.opened.set()
    with pytest.raises(errors.WorkerFailedError):
        held.run(held.engine.encode(tokens(5), TIMEOUT))
    with pytest.raises(errors.WorkerFailedError):
        held.run(held.engine.encode(tokens(5), TIMEOUT))

    wait_until(lambda: bool(held.app.state.failures))
    assert held.app.state.failures == [gate.death]
    assert (held.engine.state, held.engine.alive) == ("failed", False)


# === Kept results ===


def test_repeated_inputs_are_answered_from_the_kept_results(
    make_engine: MakeEngine, smallest_preset: Path, runner: asyncio.Runner
) -> None:
    """The same bits without a run; of a request that is partly known, only the rest runs."""
    records: list[Event] = []
    engine = make_engine(smallest_preset, records.append, result_cache_bytes=1 << 20)
    known, new = tokens(3, 16), tokens(7, seed=1)

    def batches() -> list[tuple[int, int]]:
        return [(record.sequences, record.tokens) for record in records if isinstance(record, BatchRan)]

    first, _ = runner.run(engine.encode(known, TIMEOUT))
    ran = batches()
    again, timings = runner.run(engine.encode(known, TIMEOUT))
    assert same_bits(again, first)
    assert (batches(), timings) == (ran, Timings())
    mixed, _ = runner.run(engine.encode([known[1], new[0], known[0]], TIMEOUT))
    assert batches() == [*ran, (1, 7)]
    assert same_bits([mixed[0], mixed[2]], [first[1], first[0]])
    fresh, _ = runner.run(engine.encode(new, TIMEOUT))
    assert same_bits(mixed[1:2], fresh)
    looked_up = [(record.hits, record.misses) for record in records if isinstance(record, ResultsLookedUp)]
    assert looked_up == [(0, 2), (2, 0), (2, 1), (1, 0)]
    assert 0 < engine.result_bytes <= 1 << 20


def test_kept_result_serves_requests_for_fewer_outputs(
    make_engine: MakeEngine, smallest_preset: Path, runner: asyncio.Runner
) -> None:
    """Another output of a known sequence is computed, and from then on kept next to the first."""
    records: list[Event] = []
    engine = make_engine(smallest_preset, records.append, result_cache_bytes=1 << 20)
    known = tokens(9)

    def runs() -> int:
        return sum(isinstance(record, BatchRan) for record in records)

    def encode(*outputs: Output) -> Encoding:
        ((encoding,), _) = runner.run(engine.encode(known, TIMEOUT, frozenset(outputs)))
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
    assert same_bits([encode(*ALL_OUTPUTS)], runner.run(make_engine(smallest_preset).encode(known, TIMEOUT))[0])
    assert runs() == 3


def test_equal_sequences_of_several_clients_are_computed_once(
    make_blocked_service: MakeBlockedService, runner: asyncio.Runner
) -> None:
    """While they wait or run together, one run serves them all, with the same bits."""
    held, gate = make_blocked_service()
    (first,) = tokens(9)

    async def crowd() -> list[list[Encoding]]:
        asked = [asyncio.ensure_future(held.engine.encode([first], TIMEOUT)) for _ in range(20)]
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        gate.opened.set()
        return [encodings for encodings, _ in await asyncio.gather(*asked)]

    answers = runner.run(crowd())
    assert gate.sizes == [1]
    for answer in answers:
        assert same_bits(answer, answers[0])


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "running"])
def test_requests_for_different_outputs_of_a_sequence_get_their_own(
    make_blocked_service: MakeBlockedService, runner: asyncio.Runner, *, waits: bool
) -> None:
    """One run serves both while they wait; a run that lacks an output is not joined. The bits stay the same."""
    held, gate = make_blocked_service()
    (sequence, other) = tokens(9, 7)
    pooled, both = frozenset[Output](("pooled_output",)), frozenset[Output](("mean_output", "sequence_output"))

    async def encode(sequence: Tokens, outputs: frozenset[Output]) -> Encoding:
        (encoding,), _ = await held.engine.encode([sequence], TIMEOUT, outputs)
        return encoding

    async def meet() -> list[Encoding]:
        requests = [asyncio.ensure_future(encode(other, both))] if waits else []
        requests += [] if waits else [asyncio.ensure_future(encode(sequence, pooled))]
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        late = ([pooled] if waits else []) + [both]
        requests += [asyncio.ensure_future(encode(sequence, outputs)) for outputs in late]
        await asyncio.sleep(0)
        assert held.engine.queue_tokens == 9
        gate.opened.set()
        return (await asyncio.gather(*requests))[-2:]

    first, second = held.run(meet())
    assert gate.outputs == ([[both], [pooled | both]] if waits else [[pooled], [both]])
    (alone,) = held.run(held.engine.encode([sequence], TIMEOUT))[0]
    assert first.pooled_output.tobytes() == alone.pooled_output.tobytes()
    assert second.mean_output.tobytes() == alone.mean_output.tobytes()
    assert second.sequence_output.tobytes() == alone.sequence_output.tobytes()


# === Memory of results ===


@pytest.mark.parametrize("output", ["pooled_output", "mean_output"])
def test_result_holds_the_requested_output_only(service: Service, output: Output) -> None:
    """A request for one row per sequence keeps none of the token outputs, nor the memory of the batch's arrays."""
    hidden = service.engine.require_ready().preset.architecture.hidden_dim
    sequences = tokens(*[60] * 20, *range(1, 40))
    encodings, _ = service.run(service.engine.encode(sequences, TIMEOUT, frozenset((output,))))
    for encoding in encodings:
        assert list(encoding.arrays) == [output]
        assert encoding.arrays[output].base is None
        assert encoding.nbytes == hidden * 4


def test_token_outputs_are_arrays_of_their_own(service: Service) -> None:
    """A result that outlives its batch does not hold the other sequences of the row."""
    encodings, _ = service.run(service.engine.encode(tokens(3, 20, 7), TIMEOUT))
    assert all(array.base is None for encoding in encodings for array in encoding.arrays.values())


def test_results_cannot_be_written_to(service: Service) -> None:
    """Several requests may share one."""
    ((encoding,), _) = service.run(service.engine.encode(tokens(5), TIMEOUT))
    assert not any(array.flags.writeable for array in encoding.arrays.values())
