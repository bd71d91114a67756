"""The rooms of the house and the arrows between them, read off the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import model
import service

PACKAGES = {package.__name__: Path(package.__file__ or "").parent for package in (model, service)}


def module_name(path: Path, package: str) -> str:
    """Return a source file's module name."""
    parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {module_name(path, package): path for package in PACKAGES for path in sorted(PACKAGES[package].rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Return the names of all modules that a source imports, at its head or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names}
    return found


def foreign(module: str) -> set[str]:
    """Return what a source imports from outside the standard library, libraries by their first name."""
    names = {name if name.split(".")[0] in PACKAGES else name.split(".")[0] for name in imports(module)}
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


def users(library: str) -> set[str]:
    """Return the modules of `service` that import a library."""
    return {module for module in SOURCES if module.startswith("service") and library in foreign(module)}


def test_the_sources_are_found() -> None:
    """The tests below look at something."""
    assert {"service.core.errors", "service.core.batcher", "service.protocols.native", "model.encoder"} <= set(SOURCES)
    assert foreign("service.core.batcher")


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("model")])
def test_the_model_knows_no_service(module: str) -> None:
    """Arrays in, arrays out."""
    assert not [name for name in imports(module) if name.split(".")[0] == "service"]


@pytest.mark.parametrize("module", ["service", "service.core.errors", "service.core.events"])
def test_leaves_need_the_standard_library_only(module: str) -> None:
    """Anything may import them."""
    assert foreign(module) == set()


def test_the_batcher_knows_integers_and_errors() -> None:
    """Neither a model nor an array."""
    assert foreign("service.core.batcher") == {"service.core.errors"}


def test_settings_know_what_a_preset_is_called() -> None:
    """And how keys are written in a file; nothing of the rest."""
    assert foreign("service.settings") == {"pydantic", "model.errors", "model.presets.preset", "service.web.api_keys"}


def test_statuses_are_a_table_of_errors() -> None:
    """No web framework is needed to know that full is 429."""
    assert foreign("service.web.statuses") == {"service.core.errors"}


def test_metrics_are_an_adapter_over_records() -> None:
    """Prometheus is known in one place, which knows nothing but records, and what errors there are."""
    assert foreign("service.telemetry.metrics") == {"prometheus_client", "service.core.errors", "service.core.events"}
    assert users("prometheus_client") == {"service.telemetry.metrics"}


@pytest.mark.parametrize("library", ["fastapi", "starlette"])
def test_the_web_stays_at_the_edge(library: str) -> None:
    """Application, middleware and protocols; the engine would serve another transport as well."""
    edge = {"service.app", "service.web.middleware", "service.web.ui", "service.telemetry.tracing"}
    assert {module for module in users(library) if not module.startswith("service.protocols.")} <= edge


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("uvicorn", {"service.server", "service.web.connections"}),
        ("click", {"service.cli.main"}),
        ("httpx", {"service.client"}),
        ("jax", {"service.bench.roofline"}),
        ("jaxlib", set[str]()),
        ("keras", set[str]()),
        ("h5py", set[str]()),
        ("sentencepiece", set[str]()),
        ("matplotlib", {"service.bench.plot"}),
        ("openvino", {"service.bench.roofline"}),
        ("torch", {"service.bench.roofline"}),
        ("opentelemetry", {"service.telemetry.tracing"}),
        ("pyarrow", {"service.bulk.readers", "service.bulk.outputs"}),
    ],
)
def test_a_library_has_one_home(library: str, homes: set[str]) -> None:
    """NumPy arrays are all that crosses between service and model."""
    assert {module for module in users(library) if not module.startswith("service.cli")} <= homes


@pytest.mark.parametrize(
    "module", ["service.core.engine", "service.core.inputs", "service.core.cache", "service.core.batcher"]
)
def test_the_core_knows_no_edge(module: str) -> None:
    """Arrows point inwards: protocols use the engine, never the other way round."""
    outer = (
        "service.app",
        "service.protocols",
        "service.web.middleware",
        "service.server",
        "service.cli.main",
        "service.cli",
        "service.settings",
    )
    assert not [name for name in imports(module) if name.startswith(outer)]


def test_nothing_that_serves_measures() -> None:
    """The command knows that one can, and nobody else."""
    users = {module for module in SOURCES if any(name.startswith("service.bench") for name in imports(module))}
    assert {module for module in users if not module.startswith("service.bench")} == {"service.cli.bench"}


def test_nothing_that_serves_converts_or_verifies() -> None:
    """That is done on the command line, and nowhere else."""
    homes = {"service.cli.preset", "model.conversion.convert", "distill.export"}
    for tool in ("model.conversion.convert", "model.verify", "model.conversion.hugging_face", "model.presets.files"):
        users = {module for module in SOURCES if tool in imports(module)}
        assert users <= homes | {"model.verify"}


def test_nothing_that_serves_encodes_files() -> None:
    """Bulk encoding uses the engine and the client, and only its command uses it."""
    users = {module for module in SOURCES if any(name.startswith("service.bulk") for name in imports(module))}
    assert {module for module in users if not module.startswith("service.bulk")} == {"service.cli.encode"}


def test_protocols_do_not_know_the_application() -> None:
    """They are given their engine."""
    outer = (
        "service.app",
        "service.web.middleware",
        "service.server",
        "service.cli.main",
        "service.cli",
        "service.settings",
    )
    for module in SOURCES:
        if module.startswith("service.protocols"):
            assert not [name for name in imports(module) if name.startswith(outer)]


def test_no_module_imports_itself_by_way_of_others() -> None:
    """The arrows make no circle."""
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path, module])
        if module in finished:
            return
        for name in imports(module) & set(SOURCES):
            # The package's own front door imports lazily.
            if name not in PACKAGES:
                visit(name, (*path, module))
        finished.add(module)

    for module in SOURCES:
        visit(module, ())


def loaded_by(module: str) -> set[str]:
    """Return the first names of what a fresh interpreter has loaded after an import."""
    script = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


def test_serving_loads_no_other_framework() -> None:
    """Neither TensorFlow nor keras-hub nor PyTorch nor Keras, and an engine's library only when the port is open."""
    loaded = loaded_by("service.server")
    assert "fastapi" in loaded
    assert not loaded & {"tensorflow", "keras_hub", "keras_nlp", "torch", "transformers", "keras", "jax", "openvino"}


def test_help_is_quick() -> None:
    """The command itself loads no numerical library."""
    assert not loaded_by("service.cli.main") & {"jax", "numpy", "scipy", "keras", "fastapi"}
