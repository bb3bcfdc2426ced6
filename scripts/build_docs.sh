#!/usr/bin/env bash
# The documentation as a site, into out/site: warnings are errors, and dead links and foreign hosts are found.
# Needs nothing but Python 3.11 or newer; COINFER_DOCS_ENV names an environment that has the docs extra.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
environment=${COINFER_DOCS_ENV:-.venv-docs}
[ -n "${COINFER_DOCS_ENV:-}" ] || setup_environment "$environment" docs
site=out/site
rm -rf "$site.new"
# From scratch each time: pages are made of docstrings and of the command line, too, whose changes Sphinx does not see.
PYTHONPATH=$PWD:$PWD/kernels "$environment/bin/python" -m sphinx --fail-on-warning --keep-going --quiet \
    --fresh-env -b html -d out/doctrees docs "$site.new"
"$environment/bin/python" scripts/check_site.py "$site.new"
rm -rf "$site"
mv "$site.new" "$site"
echo "$site/index.html"
