#!/bin/sh
# Remove the files of an environment that serving does not need.
# usage: trim.sh ENVIRONMENT
set -eu
environment=$1
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Build dependencies. If another package needs one of them, `pip check` fails the build.
pip --python "$environment" uninstall --quiet --yes --root-user-action ignore \
    editables hatchling pathspec pluggy tomlkit trove-classifiers
pip --python "$environment" check --disable-pip-version-check

# Tests and header files of the libraries. License files are in other directories and stay.
find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -r {} +
find "$packages" -type f \( -name '*.pxd' -o -name '*.pyx' -o -name '*.a' \) -delete
rm -rf "$packages/numpy/_core/include"
find "$packages" -type d -name __pycache__ -prune -exec rm -r {} +

# Unused symbols, a third of the largest library.
strip --strip-unneeded "$packages"/jaxlib/libjax_common.so "$packages"/uvloop/loop.*.so
find "$packages/scipy" "$packages/h5py" "$packages/hf_xet" "$packages/pydantic_core" -name '*.so' -exec strip --strip-unneeded {} +
"$environment/bin/python" -c 'import h5py, hf_xet, jax, pydantic_core, scipy.fft, scipy.stats, uvloop; jax.jit(abs).lower(1.0)'
