#!/usr/bin/env bash
# Run the tests in every supported Python that is installed, with the oldest and the newest numpy that each has:
#   tests/matrix.sh [--ends] [PYTEST-ARGUMENT...]
# --ends: only the oldest of both and the newest of both.
set -euo pipefail
cd "$(dirname "$0")/.."
ends=
if [ "${1:-}" = --ends ]; then
    ends=1
    shift
fi
# pyenv has the names of all its versions on the PATH, but runs only those that are selected.
if [ -z "${PYENV_VERSION:-}" ] && command -v pyenv >/dev/null; then
    PYENV_VERSION=$(pyenv versions --bare | grep -E '^3\.[0-9]+\.[0-9]+$' | paste -sd:)
    export PYENV_VERSION
fi

pairs=()
for version in 3.10 3.11 3.12 3.13; do
    "python$version" -c '' 2>/dev/null || { echo "python$version is not installed: skipped" >&2; continue; }
    oldest='numpy==1.26.*'
    [ "$version" = 3.13 ] && oldest='numpy==2.1.*' # the first for Python 3.13
    pairs+=("$version $oldest" "$version numpy")
done
[ ${#pairs[@]} -gt 0 ] || { echo "no supported Python is installed" >&2; exit 1; }
[ -z "$ends" ] || pairs=("${pairs[0]}" "${pairs[-1]}")

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for pair in "${pairs[@]}"; do
    read -r version numpy <<<"$pair"
    rm -rf "$folder/venv"
    "python$version" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]' "$numpy"
    "$folder/venv/bin/python" -c 'import sys, numpy; print("Python", sys.version.split()[0], "numpy", numpy.__version__)'
    "$folder/venv/bin/python" -m pytest "$@"
done
