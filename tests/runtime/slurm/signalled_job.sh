#!/usr/bin/env bash
# Submits launch/slurm.sbatch, signals it after its first checkpoint as Slurm does before the
# time limit, and waits until the requeued job has ended:
#
#   tests/runtime/slurm/signalled_job.sh LOG WORKDIR [flags of python -m hvi_tf.main]
set -euo pipefail

log=$1 workdir=$2
shift 2
job=$(sbatch --parsable --ntasks=2 --output="$log" launch/slurm.sbatch "$@" --workdir="$workdir")
until compgen -G "$workdir/checkpoints/ckpt-*.index" > /dev/null; do
  squeue --noheader | grep -q . || exit 1
  sleep 0.1
done
scancel --signal=TERM "$job"
while squeue --noheader | grep -q .; do sleep 0.5; done
scontrol show job "$job" | grep -o "JobState=[A-Z]*\|Restarts=[0-9]*"
