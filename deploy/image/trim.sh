#!/bin/sh
# Leave in an environment what serving needs.
# usage: trim.sh ENVIRONMENT
set -eu
environment=$1
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# What builds the project. Should anything else need one of them, the check says so and no image is made.
pip --python "$environment" uninstall --quiet --yes --root-user-action ignore \
    editables hatchling pathspec pluggy tomlkit trove-classifiers
pip --python "$environment" check --disable-pip-version-check

# Tests of the libraries, and what one compiles against them. Licences lie elsewhere and stay.
find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -r {} +
find "$packages" -type f \( -name '*.pxd' -o -name '*.pyx' -o -name '*.a' \) -delete
rm -rf "$packages/numpy/_core/include" "$packages/pyarrow/include" "$packages/pyarrow/src"
find "$packages" -type d -name __pycache__ -prune -exec rm -r {} +
