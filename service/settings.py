"""Settings of the service, read from environment variables and command-line options.

The import of this module reads no variable.
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from model.dtypes import BackendName, Dtype
from model.errors import PresetError
from model.presets.hub import DEFAULT_PRESET, check_handle
from service.core.options import EngineOptions
from service.web.api_keys import read_keys

PREFIX = "FNET_"
# Old name of a setting to its current name.
RENAMED = {
    "engine": "backend",
    "page": "ui",
    "keyed_metrics": "metrics_require_key",
    "keyed_health": "health_requires_key",
}
# The API key that the client commands send.
CLIENT_KEY_VARIABLE = "FNET_API_KEY"
# What Kubernetes injects into containers for a service named `fnet-...`, as Docker's links once did.
_SERVICE_LINK = re.compile(r"FNET_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)")
# Similarity (difflib) from which a known name is suggested for an unknown one.
_MIN_NAME_SIMILARITY = 0.4
# Expected values of the settings whose annotation does not describe them.
_EXPECTED = {
    "api_keys": "keys separated by commas",
    "cors_origins": "origins separated by commas, such as https://shop.example, null or *",
    "otlp_endpoint": "the URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318",
}
# Serialization of an origin (RFC 6454, section 6.2), or the wildcard.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@]+")


class SettingsError(ValueError):
    """A setting is unknown or has an invalid value.

    The message is one line: the setting, the problem and the expected value.
    """


def _split(value: Any) -> Any:
    """Split a comma-separated string; return other values unchanged."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("not an origin")
    return text


CommaSeparated = BeforeValidator(_split)
Origin = Annotated[str, AfterValidator(_origin)]


class Settings(BaseModel):
    """All settings with their defaults and descriptions.

    Each setting is an environment variable (`FNET_` and the name in upper case) and an option of `fnet-service serve`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    preset: str = Field(
        DEFAULT_PRESET, description="Bundled or built-in name, kaggle://…, hf://…[@revision], or a preset directory."
    )
    load_weights: bool = Field(True, description="Load the weights of the preset; false initializes random weights.")
    dtype: Dtype = Field(
        "float32",
        description="Data type of the feed-forward operands; all other operands are float32. int8 requires the "
        "openvino backend. Networks with fewer than 64 features always use float32.",
    )
    backend: BackendName = Field(
        "jax",
        description="Library that runs the network. openvino is an optional dependency and faster on most CPUs.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 selects a free port.")
    max_batch_tokens: int = Field(
        512,
        ge=1,
        le=4096,
        description="Target number of tokens per run of the network; a row holds at least one sequence.",
    )
    max_queue_tokens: int = Field(
        1_048_576, ge=1, description="Maximum number of queued tokens; requests beyond it are rejected."
    )
    max_sequences: int = Field(2048, ge=1, description="Maximum number of sequences per request.")
    max_body_bytes: int = Field(8 << 20, ge=1, description="Maximum size of a request body in bytes, sent or inflated.")
    request_timeout: float = Field(60.0, gt=0, le=86_400, description="Seconds after which a request times out.")
    batch_invariant: bool = Field(
        True,
        description="Return bit-identical results regardless of batch composition, verified by the self-test at start.",
    )
    pooling: Literal["pooled", "mean"] | None = Field(
        None, description="Output that serves as the embedding of a text. Defaults to the choice of the preset."
    )
    api_keys: Annotated[list[SecretStr], CommaSeparated] = Field(
        [], description="API keys that clients may send, separated by commas. Empty disables authentication."
    )
    api_keys_file: Path | None = Field(
        None, description="File of API keys, one per line; # starts a comment. Changes apply without a restart."
    )
    metrics_require_key: bool = Field(False, description="Require an API key at /metrics.")
    health_requires_key: bool = Field(False, description="Require an API key at the health routes.")
    cors_origins: Annotated[list[Origin], CommaSeparated] = Field(
        [], description="Origins that CORS allows, separated by commas; * allows all."
    )
    ui: bool = Field(True, description="Serve the web page at /.")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="URL of an OTLP/HTTP trace collector, such as http://127.0.0.1:4318. Requires the otel extra.",
    )
    log_format: Literal["console", "json"] = Field("console", description="Format of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    shutdown_delay: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM during which new requests are still accepted, so that load balancers can "
        "deregister the server.",
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, description="Seconds that accepted requests have to finish at shutdown."
    )
    cache_dir: Path | None = Field(
        None,
        description="Directory of downloaded presets and compiled programs. Defaults to the cache directory of the "
        "user.",
    )
    result_cache_mb: int = Field(0, ge=0, description="Size of the cache of results for repeated inputs, in MiB.")

    @classmethod
    def load(
        cls, environ: Mapping[str, str], options: Mapping[str, Any] | None = None, *, serving: bool = False
    ) -> Settings:
        """Read settings from environment variables and options; options take precedence.

        Args:
            environ: Environment variables. Those that start with `FNET_` and are not empty are settings.
            options: Values by setting name; `None` means that the option is absent.
            serving: Whether a service starts with these settings. If so, the address must resolve, and the cache
                directory is created.

        Raises:
            SettingsError: A name is unknown or a value is invalid.
        """
        options = {name: value for name, value in (options or {}).items() if value is not None}
        from_environ = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            # Compose files and shells leave unset variables empty.
            if name.startswith(PREFIX) and value and name != CLIENT_KEY_VARIABLE
        }
        for name in service_links(environ):
            del from_environ[name.removeprefix(PREFIX).lower()]
        for name in from_environ:
            cls._check_name(name, variable)
        for name in options:
            cls._check_name(name, option)
        try:
            settings = cls(**{**from_environ, **options})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0])
            value = "invalid value" if name == "api_keys" else f"{str(first['input'])!r} is not valid"
            raise SettingsError(f"{_source(name, options)}: {value}; expected {cls._expected(name)}") from error
        for name, problem in chain(settings._unavailable(), settings._start_errors() if serving else ()):
            raise SettingsError(f"{_source(name, options)}: {problem}")
        try:
            keys = settings.keys()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SettingsError(f"{_source('api_keys_file', options)}: {settings.api_keys_file}: {reason}") from error
        for name in ("api_keys", "api_keys_file"):
            # An empty list of keys, set on purpose, must not disable authentication.
            if not keys and (name in from_environ or name in options):
                raise SettingsError(f"{_source(name, options)}: contains no key; add one or remove the setting")
        return settings

    @classmethod
    def _check_name(cls, name: str, spelling: Callable[[str], str]) -> None:
        """Raise if a setting is renamed or unknown.

        Args:
            name: Name of the setting.
            spelling: Returns the variable or the option of a setting.

        Raises:
            SettingsError: The setting is renamed or unknown.
        """
        if name in RENAMED:
            raise SettingsError(f"{spelling(name)} was renamed: use {spelling(RENAMED[name])}")
        if name not in cls.model_fields:
            nearest = get_close_matches(name, cls.model_fields, n=1, cutoff=_MIN_NAME_SIMILARITY)
            hint = f"did you mean {spelling(nearest[0])}?" if nearest else "see `fnet-service serve --help`"
            raise SettingsError(f"{spelling(name)}: unknown setting; {hint}")

    @classmethod
    def _expected(cls, name: str) -> str:
        """Describe the valid values of a setting for an error message."""
        if name in _EXPECTED:
            return _EXPECTED[name]
        field = cls.model_fields[name]
        types = [inner for inner in get_args(field.annotation) or (field.annotation,) if inner is not NoneType]
        if get_origin(types[0]) is Literal:
            types = list(get_args(types[0]))
        if isinstance(types[0], str):
            return " or ".join([", ".join(types[:-1]), types[-1]])
        kind = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}.get(types[0], "text")
        bounds = [
            f"{words} {getattr(limit, bound):,}"
            for limit in field.metadata
            for bound, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"))
            if hasattr(limit, bound)
        ]
        return " ".join([kind, " and ".join(bounds)]).strip()

    def _unavailable(self) -> Iterator[tuple[str, str]]:
        """Find settings that require a preset, dtype or package that is not available.

        Yields:
            The name of a setting, and the problem.
        """
        try:
            check_handle(self.preset)
        except PresetError as error:
            yield "preset", str(error)
        if self.dtype == "int8" and self.backend != "openvino":
            yield (
                "dtype",
                f"int8 is not available with the {self.backend} backend: use {variable('backend')}=openvino",
            )
        for name, required, extra, module in (
            ("backend", self.backend == "openvino", "openvino", "openvino"),
            ("otlp_endpoint", self.otlp_endpoint is not None, "otel", "opentelemetry.exporter.otlp.proto.http"),
        ):
            if required and not _installed(module):
                yield name, f"{module} is not installed: pip install 'fnet-encode[{extra}]'"

    def _start_errors(self) -> Iterator[tuple[str, str]]:
        """Find settings with which a service cannot start, and create the cache directory.

        Yields:
            The name of a setting, and the problem.
        """
        try:
            socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            yield "host", f"{self.host}: {getattr(error, 'strerror', None) or error}"
        try:
            if self.cache_dir is not None:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "not a directory" if isinstance(error, FileExistsError) else error.strerror
            yield "cache_dir", f"{self.cache_dir}: {reason}"

    def keys(self) -> frozenset[str]:
        """Return the valid API keys; an empty set disables authentication."""
        keys = frozenset(key.get_secret_value() for key in self.api_keys)
        return keys if self.api_keys_file is None else keys | read_keys(self.api_keys_file)


def _installed(module: str) -> bool:
    """Return whether a module is installed. Only its parent packages are imported."""
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
    """Return the option or the variable that set a setting."""
    return option(name) if name in options else variable(name)


def service_links(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that are not settings but addresses of a Kubernetes service named `fnet-...`."""
    return [
        name
        for name, value in environ.items()
        # FNET_PORT is a setting, unless its value is an address.
        if value and _SERVICE_LINK.fullmatch(name) and (name != variable("port") or "://" in value)
    ]


def engine_options(settings: Settings, **changes: Any) -> EngineOptions:
    """Return the options of an engine.

    Args:
        settings: All settings.
        changes: Options that override the settings.
    """
    names = {field.name for field in dataclasses.fields(EngineOptions)} & set(Settings.model_fields)
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return EngineOptions(**{**options, "result_cache_bytes": settings.result_cache_mb << 20, **changes})
