"""What the package imports, and when: it stays light until asked, and knows nothing of the service around it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import model

SOURCES = sorted(Path(model.__file__).parent.glob("*.py"))


def imported(source: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it, at most two names deep."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name} imports relatively"
            names.add(node.module or "")
    return {".".join(name.split(".")[:2]) for name in names}


def importers(package: str) -> set[str]:
    """Return the files of the package that import something."""
    return {source.stem for source in SOURCES if any(name.split(".")[0] == package for name in imported(source))}


def loaded_after(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after a statement."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    program = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return set(json.loads(ended.stdout))


def test_the_package_itself_imports_nothing_heavy() -> None:
    """`import model` costs nothing: Keras and JAX come with the name that needs them."""
    assert not {"keras", "jax", "h5py", "numpy", "sentencepiece"} & loaded_after("import model")


def test_a_preset_is_described_without_keras_and_jax() -> None:
    """Reading a preset's files, or tokenising with it, needs neither."""
    statement = "from model import load_preset, FNetTokenizer\nFNetTokenizer.from_preset(load_preset('fnet_mini_en'))"
    assert not {"keras", "jax", "h5py", "kagglehub", "huggingface_hub"} & loaded_after(statement)


def test_nothing_needs_another_framework() -> None:
    """The whole package loads without TensorFlow, keras-hub, transformers or PyTorch, and without Kaggle's client."""
    statement = "import model, model.backbone, model.encoder, model.presets, model.selftest, model.tokenizer"
    loaded = loaded_after(statement)
    assert {"keras", "jax", "sentencepiece"} <= loaded
    assert not {"tensorflow", "keras_hub", "keras_nlp", "torch", "transformers"} & loaded
    assert not {"kagglehub", "safetensors"} & loaded


def test_an_engine_loads_its_own_library_alone() -> None:
    """OpenVINO needs no JAX, and what reports its use to its makers is not imported; neither needs Keras."""
    build = (
        "from model.architecture import Architecture as A; from model.plain import random_weights as r; "
        "from model.encoder import PackedEncoder as P; "
        "a = A(vocabulary_size=9, num_layers=1, hidden_dim=4, intermediate_dim=4); P(a, r(a, 0), engine='{}')"
    )
    loaded = loaded_after(build.format("openvino") + "; import sys; assert sys.modules['openvino_telemetry'] is None")
    assert "openvino" in loaded
    assert not {"jax", "keras"} & loaded
    assert not {"openvino", "keras"} & loaded_after(build.format("jax"))


def test_keras_runs_on_jax_unless_told_otherwise() -> None:
    """The backend is chosen before Keras is first imported."""
    loaded_after("import model.backbone, keras\nassert keras.backend.backend() == 'jax'")


def test_public_names_are_there() -> None:
    """Every public name can be imported from the package, and is listed by it."""
    assert sorted(model.__all__) == ["FNetBackbone", "FNetTokenizer", "PackedEncoder", "load_preset"]
    for name in model.__all__:
        assert getattr(model, name).__name__ == name


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_service_is_unknown_here(source: Path) -> None:
    """No file of the package imports the service, its frameworks or its metrics."""
    tops = {name.split(".")[0] for name in imported(source)}
    assert not tops & {"service", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "structlog"}


def test_each_library_has_its_place() -> None:
    """A library is used in the files whose business it is, and nowhere else."""
    assert importers("jax") == {"jax_mixing", "jax_programs"}
    assert importers("openvino") == {"openvino_programs"}
    assert importers("keras") == {"backbone", "layers"}
    assert importers("h5py") == {"checkpoints"}
    assert importers("safetensors") == {"hugging_face"}
    assert importers("sentencepiece") == {"tokenizer", "hugging_face_vocabulary"}
    assert importers("kagglehub") == importers("huggingface_hub") == {"presets"}


def test_arrows_point_one_way() -> None:
    """The leaves import nothing of the package, and the encoder does not know the backbone."""
    arrows = {
        source.stem: {name.split(".")[1] for name in imported(source) if name.startswith("model.")}
        for source in SOURCES
    }
    assert not arrows["errors"] | arrows["architecture"] | arrows["packing"] | arrows["fourier"] | arrows["layers"]
    assert arrows["presets"] == {"architecture", "errors"}
    assert arrows["tokenizer"] == {"presets", "errors"}
    assert arrows["checkpoints"] == {"architecture", "errors"}
    assert arrows["hugging_face"] == {"architecture", "errors", "torch_file"}
    assert arrows["torch_file"] == {"errors"}
    engines = {"jax_programs", "openvino_programs"}
    assert arrows["encoder"] == {"architecture", "checkpoints", "fourier", "packing", "programs"} | engines
    assert arrows["programs"] == {"checkpoints", "fourier"}
    assert arrows["openvino_programs"] == {"architecture", "checkpoints", "fourier", "programs"}
    assert arrows["jax_programs"] == arrows["openvino_programs"] | {"jax_mixing"}
    assert not arrows["jax_mixing"]
    assert arrows["plain"] == {"architecture", "checkpoints", "fourier"}
    assert "backbone" not in arrows["selftest"] | arrows["encoder"] | arrows["plain"]
