"""Settings: what they are, and how an environment and options become them. Nothing is read at import."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from model.dtypes import BackendName, Dtype
from model.errors import PresetError
from model.presets.hub import DEFAULT_PRESET, check_handle
from service.core.options import EngineOptions
from service.web.api_keys import read_keys

PREFIX = "FNET_"
# Settings of earlier versions, by their names then.
_RENAMED = {"engine": "backend"}
# What RFC 6454, section 6.2, makes of an origin, or any of them.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@]+")


class SettingsError(ValueError):
    """A setting is unknown or has a bad value. The message is one line that names it and what would be right."""


def _split(value: Any) -> Any:
    """Let a list be written as `a,b`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is no origin, expected a scheme and a host without a path, null or *")
    return text


CommaSeparated = BeforeValidator(_split)
Origin = Annotated[str, AfterValidator(_origin)]


class Settings(BaseModel):
    """Every setting, its default and its meaning.

    Each is an environment variable, `FNET_` and its name in capitals, and an option of `fnet-service serve`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    preset: str = Field(
        DEFAULT_PRESET, description="Bundled or built-in name, kaggle://…, hf://…[@revision], or a preset directory."
    )
    load_weights: bool = Field(True, description="Load the preset's weights; without, they are random.")
    dtype: Dtype = Field(
        "float32",
        description="Operands of the feed-forward products; all else is float32. int8 needs the openvino backend. "
        "Networks of fewer than 64 features always use float32.",
    )
    backend: BackendName = Field(
        "jax", description="Library that runs the network; openvino is an extra to install, faster on most processors."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_batch_tokens: int = Field(
        512,
        ge=1,
        le=4096,
        description="Tokens to aim for in one run of the network; a row holds at least one sequence.",
    )
    max_queue_tokens: int = Field(131_072, ge=1, description="Tokens that may wait; a request beyond is refused.")
    max_sequences: int = Field(2048, ge=1, description="Sequences that one request may hold.")
    max_body_bytes: int = Field(8 << 20, ge=1, description="Bytes that a request's body may have, sent or inflated.")
    request_timeout: float = Field(60.0, gt=0, le=86_400, description="Seconds until a request is given up.")
    batch_invariant: bool = Field(True, description="Give the same bits in whatever company, checked at start.")
    pooling: Literal["pooled", "mean"] | None = Field(
        None, description="Which output is a text's embedding; the preset's own choice by default."
    )
    api_keys: Annotated[list[SecretStr], CommaSeparated] = Field(
        [], description="Keys that clients must present, separated by commas; none lets everybody in."
    )
    api_keys_file: Path | None = Field(
        None, description="File of such keys, one a line; # begins a comment. It may be exchanged while serving."
    )
    keyed_metrics: bool = Field(False, description="Ask for a key at /metrics, too.")
    keyed_health: bool = Field(False, description="Ask for a key at the health routes, too.")
    cors_origins: Annotated[list[Origin], CommaSeparated] = Field(
        [], description="Origins of web pages that may call, separated by commas; * for all."
    )
    page: bool = Field(True, description="Serve a page for people at /.")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="Address of a collector of traces (OTLP over HTTP), as http://127.0.0.1:4318; an extra to install.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    shutdown_delay: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM that work is still taken, for balancers to notice.",
    )
    drain_seconds: float = Field(30.0, ge=0, le=3600, description="Seconds that accepted work has to finish at exit.")
    cache_dir: Path | None = Field(
        None, description="Where downloaded presets and compiled programs are kept; the user's cache by default."
    )
    result_cache_mb: int = Field(0, ge=0, description="Megabytes of results to keep for repeated inputs.")

    @classmethod
    def load(
        cls, environ: Mapping[str, str], options: Mapping[str, Any] | None = None, *, serving: bool = False
    ) -> Settings:
        """Read settings from an environment, options before it.

        Args:
            environ: Environment variables; those that start with `FNET_` and are not empty are settings.
            options: Values by setting's name; `None` stands for an option not given.
            serving: Whether a service is about to start: the address has to be one then, and the cache's directory is
                made.

        Raises:
            SettingsError: A name is unknown or a value is bad.
        """
        given = {name: value for name, value in (options or {}).items() if value is not None}
        from_environ = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            # Empty is how compose files and shells leave a variable unset.
            if name.startswith(PREFIX) and value
        }
        for name in from_environ:
            if name in _RENAMED:
                raise SettingsError(f"{variable(name)} is now {variable(_RENAMED[name])}: rename it")
            if name not in cls.model_fields:
                known = ", ".join(variable(field) for field in cls.model_fields)
                raise SettingsError(f"{variable(name)}: no such setting; known are {known}")
        try:
            settings = cls(**{**from_environ, **given})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0])
            raise SettingsError(f"{_source(name, given)}: {first['msg']}") from error
        for name, problem in chain(settings._lacks(), settings._obstacles() if serving else ()):
            raise SettingsError(f"{_source(name, given)}: {problem}")
        try:
            keys = settings.keys()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SettingsError(f"{_source('api_keys_file', given)}: {settings.api_keys_file}: {reason}") from error
        for name in ("api_keys", "api_keys_file"):
            # Whoever names keys wants a lock: an empty secret must not open the door.
            if not keys and (name in from_environ or name in given):
                raise SettingsError(f"{_source(name, given)}: holds no key")
        return settings

    def _lacks(self) -> Iterator[tuple[str, str]]:
        """Find which settings ask for what is not there."""
        try:
            check_handle(self.preset)
        except PresetError as error:
            yield "preset", str(error)
        if self.dtype == "int8" and self.backend != "openvino":
            yield (
                "dtype",
                f"int8 is not available with the {self.backend} backend: use {variable('backend')}=openvino",
            )
        for name, wanted, extra, module in (
            ("backend", self.backend == "openvino", "openvino", "openvino"),
            ("otlp_endpoint", self.otlp_endpoint is not None, "otel", "opentelemetry.exporter.otlp.proto.http"),
        ):
            if wanted and not _installed(module):
                yield name, f"{module} is not installed: pip install 'fnet-encode[{extra}]'"

    def _obstacles(self) -> Iterator[tuple[str, str]]:
        """Find which settings keep a service from starting; make the cache's directory."""
        try:
            socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            yield "host", f"{self.host}: {getattr(error, 'strerror', None) or error}"
        try:
            if self.cache_dir is not None:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "no directory" if isinstance(error, FileExistsError) else error.strerror
            yield "cache_dir", f"{self.cache_dir}: {reason}"

    def keys(self) -> frozenset[str]:
        """Return the keys that clients may present, none where everybody may come in."""
        keys = frozenset(key.get_secret_value() for key in self.api_keys)
        return keys if self.api_keys_file is None else keys | read_keys(self.api_keys_file)


def _installed(module: str) -> bool:
    """Return whether a module can be imported, without importing more of it than the packages that it is in."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def option(name: str) -> str:
    """Return the option of a setting."""
    return "--" + name.replace("_", "-")


def _source(name: str, options: Mapping[str, Any]) -> str:
    """Return how the user named a setting."""
    return option(name) if name in options else variable(name)


def engine_options(settings: Settings, **changes: Any) -> EngineOptions:
    """Return the options of an engine.

    Args:
        settings: All settings.
        changes: Options that are to differ from the settings.
    """
    names = {field.name for field in dataclasses.fields(EngineOptions)} & set(Settings.model_fields)
    given: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return EngineOptions(**{**given, "result_cache_bytes": settings.result_cache_mb << 20, **changes})
