#!/usr/bin/env bash
# The records that ship, or more of them: base networks trained to be pruned, candidates all over the space, then what
# the solvers choose. Stop it at any time and run it again: it goes on, from what ships as well.
#
#   bash scripts/collect_records.sh DATA OUT [MODEL ...]
#
# DATA: images as `coinfer collect --data` takes them. OUT gets the folders and, as they lie in
# coinfer_ray/records/shipped, the packed files. MODEL: alexnet, regnet_x_400mf; both where none is said.
#
# EXECUTOR (ray, processes, local) and WORKERS say on what; CANDIDATES and BUDGET how many strategies of either kind;
# INPUT_PX the size. On a GPU with 16 cores EXECUTOR=processes WORKERS=14 keeps it busy, more so under CUDA's
# multi-process service (`nvidia-cuda-mps-control -d`); it runs from a checkout, without ray and without installation,
# with torch 2.11 or newer and NNI.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/collect_records.sh DATA OUT [MODEL ...]" >&2; exit 2; }
data=$1 out=$(realpath -m "$2")
[ ! -e "$data" ] || data=$(realpath "$data")
shift 2
models=("${@:-alexnet}")
[ $# -gt 0 ] || models=(regnet_x_400mf alexnet)
pixels=${INPUT_PX:-64} candidates=${CANDIDATES:-300} budget=${BUDGET:-300}
run=(--executor "${EXECUTOR:-ray}" --workers "${WORKERS:-2}")
cd "$(dirname "$0")/.."
ships=$PWD/coinfer_ray/records/shipped
export PYTHONPATH=$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}
python=${PYTHON:-python3}
coinfer() { "$python" -c 'import sys; from coinfer_ray.cli import main; sys.exit(main())' "$@"; }
mkdir -p "$out"

for model in "${models[@]}"; do
    name=$model-${pixels}px known=()
    base=$out/$name.base.safetensors
    if [ -f "$ships/$name.base.safetensors" ]; then
        cp "$ships/$name.base.safetensors" "$base"
        known=(--known "$ships/$name.parquet")
    fi
    # Trains it where it is not there yet; else it only says what pruning costs it.
    "$python" scripts/train_base.py --model "$model" --data "$data" --input-px "$pixels" --out "$base" --erase 0.5 \
        --fine-tune-images 0
    coinfer collect --model "$model" --data "$data" --out "$out/$name" --candidates "$candidates" \
        --input-px "$pixels" --base "$base" "${known[@]}" --pack "$out/$name.space.parquet" "${run[@]}"
    "$python" scripts/collect_answers.py --model "$model" --data "$data" --records "$out/$name.space.parquet" \
        "${known[@]:1}" --base "$base" --out "$out/$name.answers" --pack "$out/$name.parquet" --budget "$budget" "${run[@]}"
done
