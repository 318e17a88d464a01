#!/bin/bash
# Train a VAEBM on the GPUs of one node, in as many jobs as it takes:
#   sbatch slurm.sh runs/church data=lsun64 source=released 'stage1={"bf16": true}'
# Slurm sends USR1 to this script alone, 15 minutes before the time is over.
#SBATCH --job-name=vaebm
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@900
case $1 in ''|*=*) echo 'usage: sbatch slurm.sh RUN_DIR data=PRESET [field=value ...]' >&2; exit 2;; esac
run_dir=$1; shift
mkdir -p "$run_dir"
rm -f "$run_dir/STOP"   # of an earlier job; from here on it is a request to this one
asked= ending=
trap 'asked=1 ending=1; touch "$run_dir/STOP"' USR1 TERM   # training sees the file before its next update, removes it, writes its checkpoint and ends

accelerate launch --multi_gpu --num_processes "${SLURM_GPUS_ON_NODE:-8}" -m vaebm.launch run_dir="$run_dir" "$@" &
wait $!; status=$?
while [ "$asked" ]; do asked=; wait $!; status=$?; done   # a signal ends `wait` before the training has ended

if [ "$status" -eq 0 ] && [ "$ending" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
