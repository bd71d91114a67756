"""Rules for imports between packages, and for the libraries that an import loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import model

ROOT = Path(model.__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("benchmarks", "distill", "model", "service")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# Forbidden imports of each package; a name includes its submodules.
FORBIDDEN = {
    "model": {"service", "distill", "benchmarks", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"},
    "service": {"distill", "benchmarks"},
    "service.core": {
        "service.web",
        "service.protocols",
        "service.telemetry",
        "service.cli",
        "service.app",
        "service.server",
        "service.settings",
        "fastapi",
        "starlette",
        "pydantic",
    },
    "service.telemetry": {
        "service.web",
        "service.protocols",
        "service.cli",
        "service.app",
        "service.server",
        "service.settings",
    },
    "service.web": {
        "service.protocols",
        "service.telemetry",
        "service.cli",
        "service.app",
        "service.server",
        "service.settings",
    },
    "service.protocols": {"service.telemetry", "service.cli", "service.app", "service.server", "service.settings"},
}
# The only importers of a package.
IMPORTERS = {
    "service.bulk": {"service.cli.encode"},
    "service.bench": {"service.cli.bench"},
    "model.conversion": {"service.cli.preset"},
    "model.verify": {"service.cli.preset", "model.conversion.convert", "distill.export"},
}
# The only modules of `model` and `service` that import a library.
LIBRARIES = {
    "click": {"service.cli"},
    "fastapi": {"service.app", "service.web", "service.protocols"},
    "h5py": {"model.presets.weights"},
    "httpx": {"service.client"},
    "huggingface_hub": {"model.presets.hub"},
    "jax": {"model.backends.jax_backend", "service.bench.roofline"},
    "kagglehub": {"model.presets.hub"},
    "keras": {"model.backbone", "model.layers"},
    "matplotlib": {"service.bench.plot"},
    "openvino": {"model.backends.openvino_backend", "service.bench.roofline"},
    "opentelemetry": {"service.telemetry.tracing"},
    "prometheus_client": {"service.telemetry.metrics"},
    "pyarrow": {"service.bulk"},
    "safetensors": {"model.conversion.hugging_face"},
    "scipy": {"model.mixing"},
    "sentencepiece": {"model.tokenizer", "model.conversion.sentencepiece_conversion"},
    "starlette": {"service.app", "service.web", "service.protocols", "service.telemetry.tracing"},
    "torch": {"service.bench.roofline"},
    "uvicorn": {"service.server", "service.web.connections"},
}


def imports(module: str) -> set[str]:
    """Return the full names of all imports of a module, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            base = node.module or ""
            names |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base for alias in node.names}
    return names


def is_in(name: str, package: str) -> bool:
    """Whether a module is a package or one of its submodules."""
    return name == package or name.startswith(f"{package}.")


def in_any(name: str, packages: set[str]) -> bool:
    """Whether a module is in one of several packages."""
    return any(is_in(name, package) for package in packages)


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after a statement."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    program = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    return set(result.stdout.split())


def test_all_packages_have_sources() -> None:
    """All packages in the tables exist."""
    for package in [*FORBIDDEN, *IMPORTERS]:
        assert any(is_in(module, package) for module in SOURCES), package


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_does_not_import(package: str) -> None:
    """Dependencies have one direction: cli, app, protocols, web, core, model."""
    violations = [
        f"{module} imports {name}"
        for module in SOURCES
        if is_in(module, package)
        for name in imports(module)
        if in_any(name, FORBIDDEN[package])
    ]
    assert not violations


@pytest.mark.parametrize("protocol", [name for name in SOURCES if name.startswith("service.protocols.")])
def test_protocols_do_not_import_each_other(protocol: str) -> None:
    """A protocol imports only the shared modules, and its own tensor module."""
    shared = {"service.protocols.base", "service.protocols.types"}
    if protocol == "service.protocols.oip":
        shared.add("service.protocols.oip_tensors")
    others = {name for name in imports(protocol) if name.startswith("service.protocols.")}
    assert others <= shared


@pytest.mark.parametrize("package", IMPORTERS)
def test_package_is_imported_by_its_command_only(package: str) -> None:
    """Serving does not load packages of other commands."""
    importers = {
        module
        for module in SOURCES
        if not is_in(module, package) and any(is_in(name, package) for name in imports(module))
    }
    assert importers == IMPORTERS[package]


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_imported_by_its_modules_only(library: str) -> None:
    """Each library can be replaced in one module."""
    importers = {
        module
        for module in SOURCES
        if in_any(module, {"model", "service"}) and any(is_in(name, library) for name in imports(module))
    }
    assert importers
    assert {module for module in importers if not in_any(module, LIBRARIES[library])} == set()


@pytest.mark.parametrize(
    "module", ["model.packing", "service.core.batcher", "service.core.errors", "service.core.events"]
)
def test_module_imports_only_the_standard_library(module: str) -> None:
    """Batch forming uses integers, and errors and events are plain data."""
    names = {name for name in imports(module) if name.split(".")[0] not in sys.stdlib_module_names}
    assert names <= {"service.core.errors"}


def test_imports_have_no_cycle() -> None:
    """The import graph of modules is acyclic."""
    acyclic: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in acyclic:
            for name in imports(module) & SOURCES.keys():
                # The package imports public names only when they are used.
                if name != "model":
                    visit(name, (*path, module))
            acyclic.add(module)

    for module in SOURCES:
        if module != "model":
            visit(module, ())


def test_public_names_can_be_imported() -> None:
    """Every public name is in `__all__` and can be imported."""
    assert sorted(model.__all__) == ["FNetBackbone", "FNetTokenizer", "PackedEncoder", "load_preset"]
    for name in model.__all__:
        assert getattr(model, name).__name__ == name


def test_model_imports_no_library() -> None:
    """Libraries are imported on access of a public name."""
    assert not {"keras", "jax", "h5py", "numpy", "sentencepiece", "scipy"} & loaded_by("import model")


def test_presets_and_tokenizers_need_neither_keras_nor_jax() -> None:
    """Loading a preset and its tokenizer imports neither library."""
    statement = "from model import load_preset, FNetTokenizer\nFNetTokenizer.from_preset(load_preset('fnet_mini_en'))"
    assert not {"keras", "jax", "h5py", "kagglehub", "huggingface_hub"} & loaded_by(statement)


def test_encoder_imports_no_backend_before_it_is_used() -> None:
    """Importing encoder, self-test and backends loads no backend library."""
    loaded = loaded_by("import model.encoder, model.selftest, model.backends")
    assert {"numpy", "scipy"} <= loaded
    assert not {"jax", "keras", "openvino"} & loaded


def test_backend_imports_its_own_library_only() -> None:
    """OpenVINO needs no JAX, and its telemetry is not imported; neither backend needs Keras."""
    build = (
        "from model.architecture import Architecture as A; from model.reference import random_weights as r; "
        "from model.encoder import PackedEncoder as P; "
        "a = A(vocabulary_size=9, num_layers=1, hidden_dim=4, intermediate_dim=4); "
        "P(a, r(a, 0), backend='{}', max_batch_tokens=8)"
    )
    loaded = loaded_by(build.format("openvino") + "; import sys; assert sys.modules['openvino_telemetry'] is None")
    assert "openvino" in loaded
    assert not {"jax", "keras"} & loaded
    loaded = loaded_by(build.format("jax"))
    assert "jax" in loaded
    assert not {"openvino", "keras"} & loaded


def test_model_needs_keras_on_jax_and_no_other_framework() -> None:
    """No module imports TensorFlow, keras-hub, transformers, PyTorch or the Kaggle client."""
    statement = "import model, model.backbone, model.encoder, model.presets.hub, model.selftest, model.tokenizer"
    loaded = loaded_by(statement + "; import keras; assert keras.backend.backend() == 'jax'")
    assert {"keras", "jax", "sentencepiece"} <= loaded
    assert not {"tensorflow", "keras_hub", "keras_nlp", "torch", "transformers"} & loaded
    assert not {"kagglehub", "safetensors"} & loaded


def test_serving_loads_no_other_framework() -> None:
    """The server loads no unused framework, and a backend library only after the port is open."""
    loaded = loaded_by("import service.server")
    assert "fastapi" in loaded
    assert not loaded & {"tensorflow", "keras_hub", "keras_nlp", "torch", "transformers", "keras", "jax", "openvino"}


def test_help_loads_no_numerical_library() -> None:
    """The help of the command starts fast."""
    assert not loaded_by("import service.cli.main") & {"jax", "numpy", "scipy", "keras", "fastapi"}
