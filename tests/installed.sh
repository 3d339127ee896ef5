#!/usr/bin/env bash
# Install a wheel or an sdist into a fresh environment, and run a fast selection of the tests on it, outside the checkout:
#   tests/installed.sh FILE [PYTHON [REQUIREMENT...]]
# The tests come from this folder's checkout or unpacked sdist; the package they import is the installed one.
set -euo pipefail
file=$(realpath "$1") python=${2:-python3}
shift $(($# > 2 ? 2 : $#))
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$file" 'pytest>=8' 'pytest-xdist>=3.5' 'hypothesis>=6.100' "$@"
cp -r "$root/tests" "$root/configs" "$root/docs" "$root/pyproject.toml" "$folder"
cd "$folder"
venv/bin/python - "$folder" <<'END'
import sys, mlpcli, numpy
assert mlpcli.__file__.startswith(sys.argv[1] + "/venv/"), mlpcli.__file__
print(f"mlpcli {mlpcli.__version__}, Python {sys.version.split()[0]}, numpy {numpy.__version__}")
END
venv/bin/mlpcli gradcheck quickstart --set 'network.hidden=[30]' | tail -n 1
# The one test left out follows links to the source, which is not here.
venv/bin/python -m pytest -n 0 --deselect tests/model/test_derivation.py::test_links_have_targets tests/model \
    tests/test_config.py tests/test_reference.py tests/datasets/test_idx.py tests/datasets/test_npz.py \
    tests/runs/test_checkpoint.py tests/commands/test_config.py
