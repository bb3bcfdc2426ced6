#!/usr/bin/env bash
# Records at 224 pixels on a machine with a CUDA GPU, a slice of time a call: stop it, run it again, and it goes on.
#
#   bash scripts/collect_gpu.sh DATA OUT [MINUTES]
#
# No candidate is begun after MINUTES (8 where nothing is said); the base networks come first and keep checkpoints. It
# runs from a checkout and needs no installation, no ray and no newer torch than 2.11: candidates are trained one after
# the other in this process. With ray installed, EXECUTOR=ray trains several at a time on every GPU.
set -euo pipefail
data=$1 out=$2 minutes=${3:-8}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}
ends=$(($(date +%s) + 60 * minutes))

collect() { # NAME MODEL CANDIDATES [OPTION ...]
    local name=$1 model=$2 candidates=$3 left=$((ends - $(date +%s)))
    shift 3
    ((left > 0)) || return 0
    "${PYTHON:-python3}" -c 'import sys; from coinfer_ray.cli import main; sys.exit(main())' collect --model "$model" \
        --data "$data" --out "$out/$name" --candidates "$candidates" --input-px 224 --executor "${EXECUTOR:-local}" \
        --fine-tune-images 10000 --end-to-end-images 20000 --minutes "$((left / 60 + 1))" --pack "$out/$name.parquet" "$@"
}

for model in alexnet regnet_x_400mf; do
    collect "$model-224px" "$model" 20 --repeats 3
    collect "$model-224px" "$model" 300
done
collect alexnet-224px.awgn alexnet 150 --snr-db 0:50 --seed 2 --base "$out/alexnet-224px/_base.safetensors"
