#!/usr/bin/env bash
# A sweep on Slurm without Ray: as many jobs as the array has tasks, each with a part of the grid and a folder for it.
#
#   sbatch --array=1-32 clusters/slurm-array.sh grid.yaml answers [OPTIONS OF coinfer sweep...]
#   python -c 'import coinfer_ray as c, glob; print(len(c.open_sweep(sorted(glob.glob("answers-*")))))'
#
# The array must begin with 1. Parts of other machines are never waited for, so nodes may be shared, and may come and
# go. Handed in again with the same array it goes on where it was.
#SBATCH --job-name=coinfer-sweep
#SBATCH --array=1-4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=coinfer-%A-%a.log
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch --array=1-N slurm-array.sh GRID.yaml OUT [OPTIONS...]" >&2
  exit 2
fi
if [[ ${SLURM_ARRAY_TASK_MIN:-} != 1 || $((SLURM_ARRAY_TASK_MAX)) -ne $((SLURM_ARRAY_TASK_COUNT)) ]]; then
  echo "slurm-array.sh: needs an array from 1 to the number of parts; hand it in with sbatch --array=1-N" >&2
  exit 2
fi
grid=$1
out=$2
shift 2
exec coinfer sweep "$grid" --out "${out%/}-$SLURM_ARRAY_TASK_ID" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --executor processes --workers "${SLURM_CPUS_PER_TASK:-1}" "$@"
