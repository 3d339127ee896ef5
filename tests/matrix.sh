#!/usr/bin/env bash
# Run the tests in every supported Python that is installed, with the oldest and the newest numpy that each has:
#   tests/matrix.sh [PYTEST-ARGUMENT...]          with pyenv, name the versions first: export PYENV_VERSION=3.10.13:3.13.0
set -euo pipefail
cd "$(dirname "$0")/.."
for version in 3.10 3.11 3.12 3.13; do
    # A name may be there without an interpreter behind it.
    "python$version" -c '' 2>/dev/null || { echo "python$version is not installed: skipped" >&2; continue; }
    for numpy in 'numpy==1.26.*' numpy; do
        [ "$version $numpy" = '3.13 numpy==1.26.*' ] && numpy='numpy==2.1.*' # the first for Python 3.13
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        "python$version" -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]' "$numpy"
        "$folder/bin/python" -c 'import sys, numpy; print("Python", sys.version.split()[0], "numpy", numpy.__version__)'
        "$folder/bin/python" -m pytest "$@"
        rm -rf "$folder"
    done
done
