#!/usr/bin/env bash
# Fit the predictors that ship beside the shipped records, one for each measured accuracy, with the records of quantised
# features among what they know. Run it whenever the
# records or the predictor's code change; tests/test_obtain.py says when they don't belong together.
#
#   bash scripts/fit_shipped.sh [NAME ...]      NAME: alexnet-64px, say, instead of all
set -euo pipefail
cd "$(dirname "$0")/.."
coinfer=${COINFER:-coinfer}
shipped=coinfer_ray/records/shipped
names=("${@:-}")
[ -n "${names[0]}" ] || mapfile -t names < <(basename -s .parquet -a "$shipped"/*px.parquet "$shipped"/*.awgn.parquet)
for name in "${names[@]}"; do
    records=("$shipped/$name.parquet")
    [ ! -f "$shipped/$name.quantised.parquet" ] || records+=("$shipped/$name.quantised.parquet")
    for accuracy in validation test; do
        "$coinfer" fit "${records[@]}" --regressor distilled_boosting --accuracy "$accuracy" \
            --out "$shipped/$name.$accuracy.npz"
    done
done
