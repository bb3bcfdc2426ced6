#!/usr/bin/env bash
# The main job on a machine with nothing but Python 3.11 or newer: sweep three devices over four links from the
# records that ship, on a local Ray, and show what it gives. A second run finds everything in place.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup_environment .venv search
out=${1:-out/demo}
.venv/bin/coinfer sweep examples/demo.yaml --out "$out" --solver exact --executor ray
.venv/bin/coinfer report "$out" --out "$out.html"
