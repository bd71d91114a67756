"""Write the bytecode of all modules that serving imports, Python's own among them, of which the base image has none.

A start needs it, nothing can be written later, and it is a fraction of all that could be compiled. It is not held
against the times of its sources: a layer that is taken from an earlier build has others, and in an image none changes.
"""

from __future__ import annotations

import importlib.util
import py_compile
import sys
from pathlib import Path

import jax
import uvicorn.lifespan.on
import uvicorn.loops.auto  # noqa: F401 - imported late, as the modules below are

import model.backends.jax_backend
import model.encoder
import model.selftest
import model.tokenizer
import service.cli.health
import service.cli.main
import service.server  # noqa: F401
from service.app import create_app
from service.settings import Settings

create_app(Settings.load({}))
jax.jit(abs).lower(1.0)
if importlib.util.find_spec("openvino") is not None:
    import model.backends.openvino_backend  # noqa: F401

for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.cached and spec.origin and Path(spec.origin).suffix == ".py":
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(spec.origin, spec.cached, doraise=True, invalidation_mode=mode)
