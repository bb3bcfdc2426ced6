#!/usr/bin/env bash
# A sweep on Slurm as one Ray cluster over all nodes of a job:
#
#   sbatch clusters/slurm-ray.sh grid.yaml answers/ [OPTIONS OF coinfer sweep...]
#   sbatch --nodes=16 clusters/slurm-ray.sh grid.yaml s3://bucket/answers --solver exact
#   squeue --me; coinfer status answers/; scancel JOB
#
# Handed in again (or requeued, after a preemption) it goes on where it was. The environment with coinfer-ray must be
# active when you hand it in, on a file system that all nodes see. Nodes are taken whole: `ray symmetric-run` ends with
# `ray stop`, which ends every Ray of yours on its nodes. A token of this job's own guards its ports.
#SBATCH --job-name=coinfer-sweep
#SBATCH --nodes=4
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=coinfer-%j.log
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch slurm-ray.sh GRID.yaml OUT [OPTIONS...]" >&2
  exit 2
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "slurm-ray.sh: not within a Slurm job; hand it in with sbatch" >&2
  exit 2
fi
grid=$1
out=$2
shift 2
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*} # no `| head`: a reader that leaves early may end scontrol, and with pipefail the job
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs of others may share the head's host name, not the port
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
exec srun --export=ALL --kill-on-bad-exit=1 \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --dashboard-host=127.0.0.1 -- \
  coinfer sweep "$grid" --out "$out" --address "$head:$port" "$@"
