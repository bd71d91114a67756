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

# Of Arrow, what talks to other hosts; Parquet files need none of it. Its copies of a library become links.
rm -f "$packages"/pyarrow/libarrow_flight.so* "$packages"/pyarrow/libarrow_python_flight.so* "$packages"/pyarrow/libarrow_s3.so* \
    "$packages"/pyarrow/_flight.*.so "$packages"/pyarrow/_s3fs.*.so "$packages"/pyarrow/_pyarrow_cpp_tests.*.so
for copy in "$packages"/pyarrow/libarrow_python*.so.*.*.*; do
    [ -e "$copy" ] || continue
    shortest=${copy%.so.*}.so
    for other in "$shortest" "${copy%.*.*}"; do
        cmp -s "$copy" "$other" && ln -sf "$(basename "$copy")" "$other"
    done
done

# Names of functions that nothing outside calls: a third of the largest library.
strip --strip-unneeded "$packages"/jaxlib/libjax_common.so "$packages"/uvloop/loop.*.so
"$environment/bin/python" -c 'import jax, uvloop; jax.jit(abs).lower(1.0)'
