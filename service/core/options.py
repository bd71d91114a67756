"""Options of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.dtypes import BackendName, Dtype
from model.presets.preset import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of an engine; `service.settings.Settings` describes each of them."""

    preset: str
    load_weights: bool
    dtype: Dtype
    backend: BackendName
    max_batch_tokens: int
    max_queue_tokens: int
    batch_invariant: bool
    cache_dir: Path | None
    result_cache_bytes: int
    pooling: Pooling | None
