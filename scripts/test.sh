#!/usr/bin/env bash
# Lint, types and tests, on a machine with nothing but Python 3.11 or newer.
# Arguments go to pytest: `bash scripts/test.sh -m slow`, `bash scripts/test.sh tests/kernels`. Test files run side by
# side, one process a core, four at most; `-n 0` runs them one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
environment=${COINFER_TEST_ENV:-.venv-test}
setup_environment "$environment" dev
bin=$environment/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # a core for each process: torch would take them all in each
"$bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
