"""An environment and options become settings, or one line that says why not."""

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
from service.settings import Settings, SettingsError, option, variable

# The names that the contract gives, without their prefix, and what they are where nobody says anything.
DEFAULTS: dict[str, Any] = {
    "preset": DEFAULT_PRESET,
    "dtype": "float32",
    "backend": "jax",
    "host": "127.0.0.1",
    "port": 8000,
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


def refusal(environ: Mapping[str, str], options: Mapping[str, Any] | None = None) -> str:
    """Return the one line with which settings are refused."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ, options, serving=True)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "Traceback" not in message
    return message


def test_every_name_of_the_contract_is_a_setting_with_its_default() -> None:
    """Nothing set means what the contract says."""
    settings = Settings.load({})
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert all(getattr(settings, name) > 0 for name in BOUNDS)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_means(name: str) -> None:
    """The description is the help text."""
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
    """Numbers, booleans, paths and lists by comma are understood, in the environment and as options."""
    assert getattr(Settings.load({variable(name): text}), name) == value
    assert getattr(Settings.load({}, {name: text}), name) == value


def test_options_win_over_the_environment() -> None:
    """An option given decides, one not given does not."""
    settings = Settings.load({"FNET_PORT": "1", "FNET_HOST": "::1"}, {"port": "2", "host": None})
    assert (settings.port, settings.host) == (2, "::1")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_one_that_is_not_set(name: str) -> None:
    """Compose files and shells leave variables empty; an empty option is a mistake."""
    assert Settings.load({variable(name): ""}) == Settings.load({})


@pytest.mark.parametrize("name", ["port", "preset", "dtype", "batch_invariant"])
def test_an_empty_option_is_refused(name: str) -> None:
    """Whoever writes an option means something by it."""
    assert refusal({}, {name: ""}).startswith(f"{option(name)}: ")


def test_other_variables_are_nobodys_business() -> None:
    """Only the prefix makes a setting."""
    assert Settings.load({"PORT": "x", "KERAS_BACKEND": "jax", "XFNET_PORT": "x"}).port == 8000


def test_an_unknown_name_is_refused_and_the_known_ones_told() -> None:
    """A typing error is found at the start, not by its missing effect."""
    message = refusal({"FNET_PROT": "8000"})
    assert message.startswith("FNET_PROT: no such setting")
    assert all(variable(name) in message for name in Settings.model_fields)


def test_renamed_setting_is_refused_with_its_new_name() -> None:
    """A deployment of an earlier version does not silently run with the default."""
    assert refusal({"FNET_ENGINE": "openvino"}) == "FNET_ENGINE is now FNET_BACKEND: rename it"
    assert Settings.load({"FNET_ENGINE": ""}) == Settings.load({})


def test_dtype_and_backend_have_the_values_of_the_model() -> None:
    """The settings do not import them, which would load numerical libraries."""
    for name, known in (("dtype", Dtype), ("backend", BackendName)):
        assert get_args(Settings.model_fields[name].annotation) == get_args(known)


@pytest.mark.parametrize("backend", get_args(BackendName))
@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_dtype_that_the_backend_lacks_is_refused(backend: BackendName, dtype: Dtype) -> None:
    """The line names the backend that has it."""
    environ = {"FNET_BACKEND": backend, "FNET_DTYPE": dtype}
    if dtype in SUPPORTED_DTYPES[backend]:
        assert (Settings.load(environ).backend, Settings.load(environ).dtype) == (backend, dtype)
    else:
        problem = f"{dtype} is not available with the {backend} backend: use FNET_BACKEND=openvino"
        assert refusal(environ) == f"FNET_DTYPE: {problem}"
        assert refusal({"FNET_BACKEND": backend}, {"dtype": dtype}) == f"--dtype: {problem}"


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
def test_a_bad_value_is_refused_by_the_name_that_the_user_wrote(name: str, text: str) -> None:
    """The line names the variable, or the option if it came as one."""
    assert refusal({variable(name): text}).startswith(f"{variable(name)}: ")
    assert refusal({}, {name: text}).startswith(f"{option(name)}: ")
    assert refusal({variable(name): text}, {"host": "::1"}).startswith(f"{variable(name)}: ")


@pytest.mark.parametrize("host", ["::1%nowhere", "a" * 300])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    """Before anything is loaded, by its name."""
    assert refusal({"FNET_HOST": host}).startswith(f"FNET_HOST: {host}: ")
    assert refusal({}, {"host": host}).startswith(f"--host: {host}: ")


def test_a_key_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """It is found at the start, and its bytes are not shown."""
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe secret")
    message = refusal({"FNET_API_KEYS_FILE": str(file)})
    assert message == f"FNET_API_KEYS_FILE: {file}: not UTF-8 text"


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """The line has the path and the reason."""
    assert refusal({"FNET_API_KEYS_FILE": str(tmp_path / "keys")}).endswith("keys: No such file or directory")


def test_keys_come_from_both_sources(tmp_path: Path) -> None:
    """The list and the file together are the keys; empty lines and spaces around are none."""
    file = tmp_path / "keys"
    file.write_text("\n  third \nfourth\r\n\n")
    settings = Settings.load({"FNET_API_KEYS": "first, second,", "FNET_API_KEYS_FILE": str(file)})
    assert settings.keys() == {"first", "second", "third", "fourth"}
    assert Settings.load({}).keys() == frozenset()


def test_secrets_are_never_shown() -> None:
    """Neither the settings' text, nor their dump, nor an error holds a key."""
    settings = Settings.load({"FNET_API_KEYS": "open-sesame"})
    assert "sesame" not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()
    assert "sesame" not in refusal({"FNET_API_KEYS": "open-sesame", "FNET_PORT": "x"})
    assert "sesame" not in refusal({}, {"api_keys": [["open-sesame"]]})


def test_settings_cannot_change() -> None:
    """What the service was started with is what it runs with."""
    with pytest.raises(ValidationError):
        Settings.load({}).port = 1


@pytest.mark.parametrize("handle", [DEFAULT_PRESET, "f_net_base_en", "hf://owner/name", "hf://owner/name@main"])
def test_known_handles_are_taken_without_looking_them_up(handle: str) -> None:
    """Whether a preset can be downloaded is found out by loading it."""
    assert Settings.load({"FNET_PRESET": handle}).preset == handle


def test_a_directory_is_a_preset(tmp_path: Path) -> None:
    """What is in it is read when it is loaded."""
    assert Settings.load({"FNET_PRESET": str(tmp_path)}).preset == str(tmp_path)


def test_nothing_is_read_at_import() -> None:
    """A bad variable harms nobody who only imports."""
    script = "import service.settings, service.app, service.server; print(service.settings.Settings.load({}).port)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FNET_PORT": "banana", "FNET_NONSENSE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (0, "8000\n"), ran.stderr


@pytest.mark.parametrize("content", ["", "\n", "# nothing yet\n"])
def test_a_lock_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    """Whoever names a file of keys wants a lock: an empty one must not let everybody in."""
    keys = tmp_path / "keys"
    keys.write_text(content)
    assert refusal({"FNET_API_KEYS_FILE": str(keys)}) == "FNET_API_KEYS_FILE: holds no key"
    assert refusal({"FNET_API_KEYS": " , "}) == "FNET_API_KEYS: holds no key"
