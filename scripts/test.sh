#!/usr/bin/env bash
# Lint, types and tests, on a machine with nothing but Python 3.11 or newer.
# Arguments go to pytest: `bash scripts/test.sh -m slow`, `bash scripts/test.sh tests/kernels`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
environment=${COINFER_TEST_ENV:-.venv-test}
setup_environment "$environment" dev
bin=$environment/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/python" -m pytest "$@"
