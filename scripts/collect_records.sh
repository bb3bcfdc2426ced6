#!/usr/bin/env bash
# The records that ship, at the scale of a CPU: two networks at 64 pixels, a noisy channel, and repeats for the noise
# floor. Hours on two cores; stop it at any time and run it again.
#
#   bash scripts/collect_records.sh DATA OUT [WORKERS]
#
# DATA: images as `coinfer collect --data` takes them. OUT gets a folder for each set of records and, at the end, their
# packed files, as they lie in coinfer_ray/records.
set -euo pipefail
data=$1 out=$2 workers=${3:-2}
coinfer=${COINFER:-coinfer}
measured=(--validation-images 2000 --test-images 1000)

collect() { # NAME MODEL CANDIDATES BASE_IMAGES [OPTION ...]
    local name=$1 model=$2 candidates=$3 base_images=$4
    shift 4
    "$coinfer" collect --model "$model" --data "$data" --out "$out/$name" --candidates "$candidates" --input-px 64 \
        --base-images "$base_images" --workers "$workers" "${measured[@]}" "$@"
}

both() { # MODEL BASE_IMAGES: 20 strategies from three seeds, 300 in all
    collect "$1-64px" "$1" 20 "$2" --repeats 3
    collect "$1-64px" "$1" 300 "$2" --pack "$out/$1-64px.parquet"
}

both alexnet 270000
collect alexnet-64px.awgn alexnet 150 270000 --snr-db 0:50 --seed 2 --base "$out/alexnet-64px/base.safetensors" \
    --pack "$out/alexnet-64px.awgn.parquet"
both regnet_x_400mf 405000
cp "$out/regnet_x_400mf-64px/base.safetensors" "$out/regnet_x_400mf-64px.base.safetensors"
