"""Settings are read from variables and options; errors are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from model.dtypes import SUPPORTED_DTYPES, BackendName, Dtype
from model.presets.hub import DEFAULT_PRESET
from service.settings import Settings, SettingsError, option, service_links, variable

# Names of the contract, without their prefix, and their defaults.
DEFAULTS: dict[str, Any] = {
    "preset": DEFAULT_PRESET,
    "dtype": "float32",
    "backend": "jax",
    "host": "127.0.0.1",
    "port": 8000,
    "max_queue_tokens": 1_048_576,
    "metrics_require_key": False,
    "health_requires_key": False,
    "ui": True,
    "batch_invariant": True,
    "pooling": None,
    "api_keys": [],
    "api_keys_file": None,
    "cors_origins": [],
    "log_format": "console",
    "log_level": "info",
    "cache_dir": None,
    "result_cache_mb": 0,
}
BOUNDS = [
    "max_batch_tokens",
    "max_queue_tokens",
    "max_sequences",
    "max_body_bytes",
    "request_timeout",
    "drain_seconds",
]


def error_of(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> str:
    """Return the error message of invalid settings."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ, options, serving=True)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "Traceback" not in message
    return message


def test_settings_have_the_names_and_defaults_of_the_contract() -> None:
    """Without variables and options, the defaults of the contract apply."""
    settings = Settings.load({})
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert all(getattr(settings, name) > 0 for name in BOUNDS)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description(name: str) -> None:
    """The description is the help text, one or more sentences."""
    description = Settings.model_fields[name].description or ""
    assert description.endswith(".")
    assert description[0].isupper()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("port", "65535", 65535),
        ("max_batch_tokens", "1024", 1024),
        ("request_timeout", "1.5", 1.5),
        ("batch_invariant", "false", False),
        ("batch_invariant", "0", False),
        ("batch_invariant", "no", False),
        ("batch_invariant", "TRUE", True),
        ("load_weights", "off", False),
        ("dtype", "bfloat16", "bfloat16"),
        ("backend", "openvino", "openvino"),
        ("pooling", "mean", "mean"),
        ("cors_origins", "http://a, http://b ,", ["http://a", "http://b"]),
        ("cors_origins", "null,*", ["null", "*"]),
        ("cors_origins", "", []),
        ("cache_dir", "some/where", Path("some/where")),
    ],
)
def test_values_are_read_from_text(name: str, text: str, value: object) -> None:
    """Variables and options accept numbers, booleans, paths and comma-separated lists."""
    assert getattr(Settings.load({variable(name): text}), name) == value
    assert getattr(Settings.load({}, {name: text}), name) == value


def test_options_take_precedence_over_variables() -> None:
    """An absent option does not override a variable."""
    settings = Settings.load({"FNET_PORT": "1", "FNET_HOST": "::1"}, {"port": "2", "host": None})
    assert (settings.port, settings.host) == (2, "::1")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_empty_variable_counts_as_unset(name: str) -> None:
    """Compose files and shells leave unset variables empty."""
    assert Settings.load({variable(name): ""}) == Settings.load({})


@pytest.mark.parametrize("name", ["port", "preset", "dtype", "batch_invariant"])
def test_empty_option_is_rejected(name: str) -> None:
    """An empty option is an error, unlike an empty variable."""
    assert error_of({}, {name: ""}).startswith(f"{option(name)}: ")


def test_variables_without_the_prefix_are_ignored() -> None:
    """Only variables that start with `FNET_` are settings."""
    assert Settings.load({"PORT": "x", "KERAS_BACKEND": "jax", "XFNET_PORT": "x"}).port == 8000


@pytest.mark.parametrize("name", Settings.model_fields)
def test_unknown_name_is_rejected_with_the_nearest_known_one(name: str) -> None:
    """A misspelled setting stops the start instead of having no effect."""
    misspelled = name[:-1] + "xx"
    assert (
        error_of({variable(misspelled): "1"})
        == f"{variable(misspelled)}: unknown setting; did you mean {variable(name)}?"
    )
    assert error_of({}, {misspelled: "1"}) == f"{option(misspelled)}: unknown setting; did you mean {option(name)}?"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FNET_ENCODE_SERVICE_HOST", "10.0.0.1"),
        ("FNET_ENCODE_SERVICE_PORT", "8000"),
        ("FNET_ENCODE_SERVICE_PORT_HTTP", "8000"),
        ("FNET_ENCODE_PORT", "tcp://10.0.0.1:8000"),
        ("FNET_ENCODE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("FNET_ENCODE_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("FNET_PORT", "tcp://10.0.0.1:8000"),
        ("FNET_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_address_that_kubernetes_injects_is_ignored(name: str, value: str) -> None:
    """A service named `fnet-...` in the same namespace does not prevent the start."""
    assert service_links({name: value, "FNET_DTYPE": "float32"}) == [name]
    assert Settings.load({name: value}) == Settings.load({})


def test_client_key_is_not_a_setting() -> None:
    """A shell may have it for the client commands."""
    assert Settings.load({"FNET_API_KEY": "sesame"}).keys() == frozenset()


def test_unknown_name_without_a_near_one_is_rejected() -> None:
    """The message refers to the help text."""
    assert error_of({"FNET_QQQ": "1"}) == "FNET_QQQ: unknown setting; see `fnet-service serve --help`"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("engine", "backend"),
        ("page", "ui"),
        ("keyed_metrics", "metrics_require_key"),
        ("keyed_health", "health_requires_key"),
    ],
)
def test_renamed_setting_is_rejected_with_its_new_name(old: str, new: str) -> None:
    """A deployment of an earlier version does not silently run with the default."""
    assert error_of({variable(old): "true"}) == f"{variable(old)} was renamed: use {variable(new)}"
    assert error_of({}, {old: "true"}) == f"{option(old)} was renamed: use {option(new)}"
    assert Settings.load({variable(old): ""}, {old: None}) == Settings.load({})


def test_dtype_and_backend_have_the_values_of_the_model() -> None:
    """The settings accept the values of the model, without importing numerical libraries."""
    for name, known in (("dtype", Dtype), ("backend", BackendName)):
        assert get_args(Settings.model_fields[name].annotation) == get_args(known)


@pytest.mark.parametrize("backend", get_args(BackendName))
@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_dtype_that_the_backend_does_not_support_is_rejected(backend: BackendName, dtype: Dtype) -> None:
    """The message names the backend that supports the dtype."""
    environ = {"FNET_BACKEND": backend, "FNET_DTYPE": dtype}
    if dtype in SUPPORTED_DTYPES[backend]:
        assert (Settings.load(environ).backend, Settings.load(environ).dtype) == (backend, dtype)
    else:
        problem = f"{dtype} is not available with the {backend} backend: use FNET_BACKEND=openvino"
        assert error_of(environ) == f"FNET_DTYPE: {problem}"
        assert error_of({"FNET_BACKEND": backend}, {"dtype": dtype}) == f"--dtype: {problem}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "banana"),
        ("port", "65536"),
        ("port", "-1"),
        ("dtype", "float16"),
        ("backend", "tensorflow"),
        ("max_batch_tokens", "0"),
        ("max_queue_tokens", "1.5"),
        ("max_sequences", "-3"),
        ("max_body_bytes", "8MB"),
        ("request_timeout", "0"),
        ("request_timeout", "nan"),
        ("request_timeout", "inf"),
        ("drain_seconds", "-1"),
        ("batch_invariant", "maybe"),
        ("pooling", "max"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("result_cache_mb", "-1"),
        ("preset", "no_such_preset"),
        ("preset", "kaggle://half"),
        ("preset", "hf://half"),
        ("cors_origins", "shop.example"),
        ("cors_origins", "https://shop.example/page"),
        ("cors_origins", "https://me@shop.example"),
        ("cache_dir", "/dev/null"),
        ("cache_dir", "/dev/null/cache"),
        ("api_keys_file", "no/such/file"),
        ("api_keys_file", "."),
    ],
)
def test_error_of_an_invalid_value_names_the_variable_or_option(name: str, text: str) -> None:
    """The message names the source of the value and has no wording of pydantic."""
    message = error_of({variable(name): text})
    assert message.startswith(f"{variable(name)}: ")
    assert "Input" not in message
    assert "Value error" not in message
    assert error_of({}, {name: text}).startswith(f"{option(name)}: ")
    assert error_of({variable(name): text}, {"host": "::1"}).startswith(f"{variable(name)}: ")


@pytest.mark.parametrize("host", ["::1%nowhere", "a" * 300])
def test_unresolvable_host_is_rejected(host: str) -> None:
    """The message names the setting and the host."""
    assert error_of({"FNET_HOST": host}).startswith(f"FNET_HOST: {host}: ")
    assert error_of({}, {"host": host}).startswith(f"--host: {host}: ")


def test_key_file_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    """The message does not show the bytes of the file."""
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe secret")
    message = error_of({"FNET_API_KEYS_FILE": str(file)})
    assert message == f"FNET_API_KEYS_FILE: {file}: not UTF-8 text"


def test_error_of_a_missing_key_file_names_the_file(tmp_path: Path) -> None:
    """The message has the path and the reason."""
    assert error_of({"FNET_API_KEYS_FILE": str(tmp_path / "keys")}).endswith("keys: No such file or directory")


def test_keys_of_setting_and_file_are_combined(tmp_path: Path) -> None:
    """Empty lines and surrounding spaces are not part of a key."""
    file = tmp_path / "keys"
    file.write_text("\n  third \nfourth\r\n\n")
    settings = Settings.load({"FNET_API_KEYS": "first, second,", "FNET_API_KEYS_FILE": str(file)})
    assert settings.keys() == {"first", "second", "third", "fourth"}
    assert Settings.load({}).keys() == frozenset()


def test_secrets_are_never_shown() -> None:
    """The representation, the dump and error messages do not contain a key."""
    settings = Settings.load({"FNET_API_KEYS": "open-sesame"})
    assert "sesame" not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()
    assert "sesame" not in error_of({"FNET_API_KEYS": "open-sesame", "FNET_PORT": "x"})
    assert "sesame" not in error_of({}, {"api_keys": [["open-sesame"]]})


def test_settings_are_immutable() -> None:
    """A setting cannot be assigned after loading."""
    with pytest.raises(ValidationError):
        Settings.load({}).port = 1


@pytest.mark.parametrize("handle", [DEFAULT_PRESET, "f_net_base_en", "hf://owner/name", "hf://owner/name@main"])
def test_preset_handles_are_accepted_without_a_download(handle: str) -> None:
    """Only loading the preset shows whether it can be downloaded."""
    assert Settings.load({"FNET_PRESET": handle}).preset == handle


def test_directory_is_accepted_as_preset(tmp_path: Path) -> None:
    """The directory is read when the preset is loaded."""
    assert Settings.load({"FNET_PRESET": str(tmp_path)}).preset == str(tmp_path)


def test_import_reads_no_variables() -> None:
    """An invalid variable does not affect an import."""
    script = "import service.settings, service.app, service.server; print(service.settings.Settings.load({}).port)"
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FNET_PORT": "banana", "FNET_NONSENSE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (process.returncode, process.stdout) == (0, "8000\n"), process.stderr


@pytest.mark.parametrize("content", ["", "\n", "# nothing yet\n"])
def test_empty_key_list_is_rejected(tmp_path: Path, content: str) -> None:
    """An empty key list that is set on purpose must not disable authentication."""
    keys = tmp_path / "keys"
    keys.write_text(content)
    assert (
        error_of({"FNET_API_KEYS_FILE": str(keys)})
        == "FNET_API_KEYS_FILE: contains no key; add one or remove the setting"
    )
    assert error_of({"FNET_API_KEYS": " , "}) == "FNET_API_KEYS: contains no key; add one or remove the setting"
