#!/usr/bin/env bash
# Pretrain an encoder on several machines: sbatch --export=ALL,DATA=/shared/places,OUT=/shared/encoder slurm_pretrain.sh [OPTION...]
# One task for each GPU. DATA and OUT lie where all nodes see them. `geovit fit medical` and `geovit fit restoration` take the same
# --hardware options. When time runs out, the job is queued again and goes on from the last validation.
#SBATCH --job-name=geovit-pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

: "${DATA:?folder of places}" "${OUT:?folder for the encoder}"

again() {
    echo "two minutes are left: the job is queued again" >&2
    scontrol requeue "$SLURM_JOB_ID"
}
trap again USR1

resume=()
if [[ -e "$OUT/last.ckpt" ]]; then
    resume=(--resume)
fi

# "ddp": all weights on every GPU. For weights that are too large for one: --hardware.strategy fsdp --optimizer.average 0
srun geovit pretrain "$DATA" "$OUT" \
    --hardware.accelerator gpu \
    --hardware.nodes "$SLURM_NNODES" \
    --hardware.devices "$SLURM_NTASKS_PER_NODE" \
    --hardware.strategy ddp \
    --hardware.precision bf16 \
    "${resume[@]}" "$@" &
wait $! # and not in the foreground: bash runs a trap only between commands
