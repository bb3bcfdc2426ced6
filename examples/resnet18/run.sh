#!/usr/bin/env bash
# docs/howto/resnet18.md as one script: ResNet-18 from its weights to a verified answer and a page.
#
#   bash examples/resnet18/run.sh [--data DATA] [--out DIR]
#
# DATA: images as `coinfer collect --data` takes them, by default digits, which needs no download. DIR gets everything,
# by default out/resnet18 of this checkout. `python` and `coinfer` are those of the PATH, with torch. Stop it at any time
# and run it again: what was trained stays.
set -euo pipefail
usage() { echo "usage: bash examples/resnet18/run.sh [--data DATA] [--out DIR]" >&2; exit 2; }
example=$(realpath "$(dirname "$0")")
data=digits out=$example/../../out/resnet18
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --data) data=$2 ;;
        --out) out=$2 ;;
        *) usage ;;
    esac
    shift 2
done
[ ! -e "$data" ] || data=$(realpath "$data")
mkdir -p "$out"
cd "$out"
# Weights and records of other images would be taken for these images' own.
if [ -f data ] && [ "$(cat data)" != "$data" ]; then
    echo "run.sh: $PWD holds what was made of $(cat data); give another --out for $data" >&2
    exit 2
fi
echo "$data" > data

# The network as the search sees it.
coinfer models resnet18 --input-px 32
coinfer models resnet18 --input-px 32 --json > resnet18.json
coinfer compare --model resnet18.json --device rpi4b --server p100 --link 3g \
    --methods all_local,all_server,neurosurgeon

# Weights of one's own.
[ -f resnet18.pt ] || \
python "$example/train.py" "$data" resnet18.pt

# Records, a predictor, an answer.
coinfer collect --model resnet18 --input-px 32 --data "$data" --out records \
    --weights resnet18.pt --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --candidates 24 \
    --fine-tune-images 0 --end-to-end-images 0 --executor processes
coinfer fit records --out resnet18.npz
coinfer optimize --records resnet18.npz --device rpi4b --server p100 --link 3g \
    --max-loss 0.05
coinfer optimize --records resnet18.npz --device rpi4b --server p100 --link 3g \
    --max-loss 0.05 --json > answer.json
coinfer compare --records resnet18.npz --device rpi4b --server p100 --link 3g \
    --max-loss 0.05

# Trained anew.
coinfer verify answer.json --data "$data" --records records --append verified --seeds 2

# A grid of scenarios as a table and a page.
coinfer sweep "$example/grid.yaml" --records resnet18.npz --out sweep --executor local
coinfer report sweep --out resnet18.html
