#!/bin/sh
# Install the project's wheel into an environment, and copy the added files to a separate tree.
# usage: project.sh ENVIRONMENT WHEELS OUT
set -eu
environment=$1
mkdir -p "$3"
touch /before
pip --python "$environment" install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-compile --no-index --no-deps "$2"/*.whl
cd /
"$environment/bin/python" /source/deploy/image/bytecode.py
find "$environment" /usr/local/lib -newer /before ! -type d -exec cp --parents --preserve=mode,timestamps,links {} "$3" \;
