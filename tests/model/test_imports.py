"""What the package imports, and when: it is light until it is used, and does not depend on the service."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import model

PACKAGE = Path(model.__file__).parent


def module_name(path: Path) -> str:
    """Return a source file's module name, without `model.`; the package itself is `model`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "model"


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# The recipe of the bundled preset is not installed with the package, and uses what it needs.
INSTALLED = [module for module in SOURCES if module.split(".")[0] != "distill"]
DEPENDENCIES = {
    "architecture": set(),
    "arrays": set(),
    "backbone": {"architecture", "checkpoints", "layers", "presets"},
    "backends": {"architecture", "backends.base", "backends.jax_backend", "backends.openvino_backend"},
    "backends.base": {"architecture", "arrays", "checkpoints", "mixing", "packing"},
    "backends.jax_backend": {"architecture", "arrays", "backends.base", "checkpoints"},
    "backends.openvino_backend": {"architecture", "arrays", "backends.base", "checkpoints", "quantization"},
    "checkpoints": {"architecture", "errors"},
    "encoder": {"architecture", "arrays", "backends", "backends.base", "checkpoints", "packing"},
    "errors": set(),
    "hugging_face": {"architecture", "errors", "torch_file"},
    "layers": set(),
    "mixing": {"arrays", "packing"},
    "packing": set(),
    "plain": {"architecture", "arrays", "checkpoints"},
    "presets": {"architecture", "errors"},
    "quantization": {"arrays"},
    "selftest": {"arrays", "backends.base", "encoder", "packing"},
    "tokenizer": {"errors", "presets"},
    "torch_file": {"errors"},
}


def imports(module: str) -> set[str]:
    """Return the names of all modules that a source imports, at its head or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names.add(node.module or "")
    return names


def dependencies(module: str) -> set[str]:
    """Return the modules of the package that a source imports."""
    return {name.removeprefix("model.") for name in imports(module) if name.startswith("model.")}


def importers(library: str) -> set[str]:
    """Return the modules that import a library."""
    return {module for module in INSTALLED if any(name.split(".")[0] == library for name in imports(module))}


def loaded_after(statement: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after a statement."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    program = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return set(json.loads(ended.stdout))


def test_package_imports_no_library() -> None:
    """Libraries are imported with the public name that needs them."""
    assert not {"keras", "jax", "h5py", "numpy", "sentencepiece", "scipy"} & loaded_after("import model")


def test_presets_and_tokenizers_need_neither_keras_nor_jax() -> None:
    """Reading a preset's files, or tokenizing with it."""
    statement = "from model import load_preset, FNetTokenizer\nFNetTokenizer.from_preset(load_preset('fnet_mini_en'))"
    assert not {"keras", "jax", "h5py", "kagglehub", "huggingface_hub"} & loaded_after(statement)


def test_encoder_imports_no_backend_before_it_is_used() -> None:
    """Importing the encoder, the self-test and the settings' table of dtypes."""
    loaded = loaded_after("import model.encoder, model.selftest, model.backends")
    assert {"numpy", "scipy"} <= loaded
    assert not {"jax", "keras", "openvino"} & loaded


def test_backend_imports_its_own_library_alone() -> None:
    """OpenVINO needs no JAX, and its telemetry is not imported; neither backend needs Keras."""
    build = (
        "from model.architecture import Architecture as A; from model.reference import random_weights as r; "
        "from model.encoder import PackedEncoder as P; "
        "a = A(vocabulary_size=9, num_layers=1, hidden_dim=4, intermediate_dim=4); "
        "P(a, r(a, 0), backend='{}', max_batch_tokens=8)"
    )
    loaded = loaded_after(build.format("openvino") + "; import sys; assert sys.modules['openvino_telemetry'] is None")
    assert "openvino" in loaded
    assert not {"jax", "keras"} & loaded
    loaded = loaded_after(build.format("jax"))
    assert "jax" in loaded
    assert not {"openvino", "keras"} & loaded


def test_package_needs_keras_on_jax_and_no_other_framework() -> None:
    """All modules load without TensorFlow, keras-hub, transformers, PyTorch and Kaggle's client."""
    statement = "import model, model.backbone, model.encoder, model.presets.preset, model.selftest, model.tokenizer"
    loaded = loaded_after(statement + "; import keras; assert keras.backend.backend() == 'jax'")
    assert {"keras", "jax", "sentencepiece"} <= loaded
    assert not {"tensorflow", "keras_hub", "keras_nlp", "torch", "transformers"} & loaded
    assert not {"kagglehub", "safetensors"} & loaded


def test_public_names_can_be_imported() -> None:
    """Every public name is listed by the package."""
    assert sorted(model.__all__) == ["FNetBackbone", "FNetTokenizer", "PackedEncoder", "load_preset"]
    for name in model.__all__:
        assert getattr(model, name).__name__ == name


@pytest.mark.parametrize("module", SOURCES)
def test_model_does_not_import_the_service(module: str) -> None:
    """Nor the service's frameworks or its metrics."""
    libraries = {name.split(".")[0] for name in imports(module)}
    assert not libraries & {"service", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "structlog"}


def test_each_library_is_imported_by_its_modules_alone() -> None:
    """A library can be replaced in one place."""
    assert importers("jax") == {"backends.jax_backend"}
    assert importers("openvino") == {"backends.openvino_backend"}
    assert importers("scipy") == {"mixing"}
    assert importers("keras") == {"backbone", "layers"}
    assert importers("h5py") == {"checkpoints"}
    assert importers("safetensors") == {"hugging_face"}
    assert importers("sentencepiece") == {"tokenizer", "hugging_face_vocabulary"}
    assert importers("kagglehub") == importers("huggingface_hub") == {"presets"}


@pytest.mark.parametrize("module", DEPENDENCIES)
def test_module_depends_on_these_alone(module: str) -> None:
    """Dependencies point one way: from the encoder to backends, from there to mixing and packing."""
    assert dependencies(module) == DEPENDENCIES[module]


def test_packing_needs_the_standard_library_alone() -> None:
    """Batch forming is computed with integers."""
    assert all(name.split(".")[0] in sys.stdlib_module_names for name in imports("packing"))


def test_dependencies_have_no_cycle() -> None:
    """Each module can be read before those that import it."""
    acyclic: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in acyclic:
            for name in dependencies(module) & SOURCES.keys():
                visit(name, (*path, module))
            acyclic.add(module)

    for module in INSTALLED:
        # The package imports public names only when they are used.
        if module != "model":
            visit(module, ())
