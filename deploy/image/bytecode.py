"""Compile the modules that serving imports, including those of Python, to bytecode.

The base image has no bytecode and the container cannot write any. Only imported modules are compiled, which saves
space. Bytecode is not checked against the times of its sources, because cached layers have different times.
"""

from __future__ import annotations

import importlib.util
import py_compile
import sys
from pathlib import Path

import jax
import uvicorn.lifespan.on
import uvicorn.loops.auto  # noqa: F401 - imported at run time, as the modules below

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
