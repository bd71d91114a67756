"""Settings become what an engine needs to know: the only place that knows both."""

from __future__ import annotations

import dataclasses
from typing import Any

from service.core.engine import EngineOptions
from service.settings import Settings


def engine_options(settings: Settings, **changes: Any) -> EngineOptions:
    """Return the options of an engine.

    Args:
        settings: All settings.
        changes: Options that are to differ from the settings.
    """
    names = {field.name for field in dataclasses.fields(EngineOptions)} & set(Settings.model_fields)
    given: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return EngineOptions(**{**given, "result_cache_bytes": settings.result_cache_mb << 20, **changes})
