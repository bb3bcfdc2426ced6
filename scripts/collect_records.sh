#!/usr/bin/env bash
# The records that ship, at the scale of a CPU: two networks at 64 pixels, a noisy channel, and repeats for the noise
# floor. Hours on two cores; stop it at any time and run it again.
#
#   bash scripts/collect_records.sh DATA OUT [WORKERS] [NAME ...]
#
# DATA: images as `coinfer collect --data` takes them. OUT gets a folder for each set of records and their packed
# files, as they lie in coinfer_ray/records/shipped; what lies there with its base network is taken as done. NAME: some of
# alexnet-64px, alexnet-64px.awgn, regnet_x_400mf-64px instead of all.
set -euo pipefail
data=$1 out=$2 workers=${3:-2}
shift $(($# < 3 ? $# : 3))
names=("${@:-}")
coinfer=${COINFER:-coinfer}
ships=$(cd "$(dirname "$0")/.." && pwd)/coinfer_ray/records/shipped

collect() { # NAME MODEL BASE_IMAGES CANDIDATES [OPTION ...]
    local name=$1 model=$2 base_images=$3 candidates=$4
    shift 4
    [[ -z ${names[0]} || " ${names[*]} " == *" $name "* ]] || return 0
    if [ -f "$ships/$name.base.safetensors" ]; then
        set -- "$@" --base "$ships/$name.base.safetensors" --known "$ships/$name.parquet"
    elif [ -f "$out/$model-64px/_base.safetensors" ]; then
        set -- "$@" --base "$out/$model-64px/_base.safetensors"
    fi
    "$coinfer" collect --model "$model" --data "$data" --out "$out/$name" --candidates "$candidates" --input-px 64 \
        --base-images "$base_images" --validation-images 2000 --test-images 1000 --workers "$workers" \
        --pack "$out/$name.parquet" "$@"
    cp "$out/$name/"*base.safetensors "$out/$name.base.safetensors"
}

for network in "alexnet 540000" "regnet_x_400mf 405000"; do
    read -r model base_images <<< "$network"
    collect "$model-64px" "$model" "$base_images" 300
    collect "$model-64px" "$model" "$base_images" 20 --repeats 3
done
# Few of RegNetX's 300 lie near its base network, where accuracy bounds are.
name=regnet_x_400mf-64px
known=$ships/$name.parquet
[ -f "$known" ] || known=$out/$name.parquet
collect $name regnet_x_400mf 405000 120 --known "$known" --near 0.05
collect alexnet-64px.awgn alexnet 540000 150 --snr-db 0:50 --seed 2
