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
rm -rf "$packages/numpy/_core/include" "$packages/pyarrow/include" "$packages/pyarrow/src"
find "$packages" -type d -name __pycache__ -prune -exec rm -r {} +

# Network clients of Arrow, which Parquet files do not need. Copies of its libraries become links.
rm -f "$packages"/pyarrow/libarrow_flight.so* "$packages"/pyarrow/libarrow_python_flight.so* "$packages"/pyarrow/libarrow_s3.so* \
    "$packages"/pyarrow/_flight.*.so "$packages"/pyarrow/_s3fs.*.so "$packages"/pyarrow/_pyarrow_cpp_tests.*.so
for copy in "$packages"/pyarrow/libarrow_python*.so.*.*.*; do
    [ -e "$copy" ] || continue
    shortest=${copy%.so.*}.so
    for other in "$shortest" "${copy%.*.*}"; do
        cmp -s "$copy" "$other" && ln -sf "$(basename "$copy")" "$other"
    done
done

# Unused symbols, a third of the largest library.
strip --strip-unneeded "$packages"/jaxlib/libjax_common.so "$packages"/uvloop/loop.*.so
"$environment/bin/python" -c 'import jax, uvloop; jax.jit(abs).lower(1.0)'
