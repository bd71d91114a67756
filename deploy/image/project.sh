#!/bin/sh
# Install the project's wheel into an environment, and gather what that adds to it as a tree of its own.
# usage: project.sh ENVIRONMENT WHEELS OUT
set -eu
environment=$1
python="$environment/bin/python"
mkdir -p "$3"
touch /before
pip --python "$environment" install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-compile --no-index --no-deps "$2"/*.whl

# Importing writes the bytecode of what is imported: a start needs it, and it is a fraction of all that could be compiled.
cd /
"$python" -c 'import service.server, service.commands.health, model.encoder, model.selftest, model.tokenizer'
"$python" -c 'import model.jax_programs'
if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("openvino") is None)'; then
    "$python" -c 'import model.openvino_programs'
fi
find "$environment" -newer /before ! -type d -exec cp --parents --preserve=mode,timestamps,links {} "$3" \;
