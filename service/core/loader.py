"""Loading of a preset: weights, tokenizer, compilation and self-test."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from model.backends import backend_type, faster_choice
from model.encoder import PackedEncoder
from model.presets.hub import default_cache_dir, load_preset
from model.presets.preset import Preset
from model.presets.weights import read_weights, weights_digest
from model.reference import encode_one, random_weights
from model.selftest import SelfTest, compile_and_verify
from model.tokenizer import FNetTokenizer
from service.core.options import EngineOptions

# Seed of random weights.
_SEED = 0

log = structlog.get_logger("fnet.engine")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        preset: Description of the preset.
        digest: SHA-256 of the weight files; empty for random weights.
        tokenizer: Tokenizer of the preset, if it has one.
        encoder: The compiled encoder.
        test: Result of the self-test.
        seconds: Duration of loading.
    """

    preset: Preset
    digest: str
    tokenizer: FNetTokenizer | None
    encoder: PackedEncoder
    test: SelfTest
    seconds: float


def load_model(options: EngineOptions, progress: Callable[[int, int], None]) -> LoadedModel:
    """Load a preset, compile its programs and verify them.

    Args:
        options: Options of the engine.
        progress: Called with the number of compiled row lengths and the total number.

    Raises:
        PresetError: The preset is missing, damaged or not supported.
        BackendError: The backend cannot run the network on this machine.
        SelfTestError: The outputs differ from the reference.
    """
    started = time.perf_counter()
    log.info("loading", preset=options.preset, dtype=options.dtype)
    preset = load_preset(options.preset, options.cache_dir)
    tokenizer = FNetTokenizer.from_preset(preset) if preset.has_tokenizer else None
    architecture = preset.architecture
    if options.load_weights:
        weights, digest = read_weights(preset.directory, architecture), weights_digest(preset.directory)
    else:
        weights, digest = random_weights(architecture, _SEED), ""
        log.warning("weights not loaded", preset=preset.name, detail="weights and embeddings are random")
    if not preset.trained:
        log.warning("preset not trained", preset=preset.name, detail="the metadata of the preset marks it as untrained")
    backend_type(options.backend).use_compilation_cache((options.cache_dir or default_cache_dir()) / "xla")
    encoder = PackedEncoder(
        architecture,
        weights,
        dtype=options.dtype,
        backend=options.backend,
        max_batch_tokens=options.max_batch_tokens,
    )
    progress(0, len(encoder.row_lengths))
    test = compile_and_verify(
        encoder,
        lambda tokens: encode_one(architecture, weights, *tokens),
        batch_invariant=options.batch_invariant,
        progress=progress,
    )
    for length, reason in test.disabled.items():
        log.info("row length disabled", row_length=length, reason=reason)
    if options.batch_invariant and not test.batch_invariant:
        log.warning(
            "not batch-invariant",
            detail="on this machine the last bits of a result depend on the rest of its batch",
        )
    _return_free_memory()
    return LoadedModel(preset, digest, tokenizer, encoder, test, time.perf_counter() - started)


def faster_settings(options: EngineOptions, loaded: LoadedModel) -> dict[str, str]:
    """Return a faster combination of backend and dtype as a log field, if one is installed and supported."""
    if not loaded.encoder.devices[0].startswith("cpu"):
        return {}
    choice = faster_choice(loaded.preset.architecture, options.backend, options.dtype)
    return {} if choice is None else {"faster": choice}


def _return_free_memory() -> None:
    """Return freed memory to the operating system; glibc retains it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
