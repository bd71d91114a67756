"""What an engine is configured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.dtypes import BackendName, Dtype
from model.presets.preset import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine needs to know; see `service.settings.Settings` for each meaning."""

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
