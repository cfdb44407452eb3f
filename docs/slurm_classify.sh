#!/usr/bin/env bash
# Map a scene on several machines: sbatch --export=ALL,SCENE=/shared/scene.vrt,MODEL=/shared/model.safetensors,OUT=/shared/map \
#     slurm_classify.sh [OPTION...]
# A Dask worker with one thread for each core. All paths lie where all nodes see them. Submitted again after it was cut off, it goes
# on. `geovit embed` and `geovit restore` take the same --dask and --resume. With GPUs: one task and --gpus-per-task=1 for each, and
# THREADS=2, so that one thread reads while the other computes.
#SBATCH --job-name=geovit-classify
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
set -euo pipefail

: "${SCENE:?scene to map}" "${MODEL:?model of geovit fit hyperspectral}" "${OUT:?folder for the map}"
threads="${THREADS:-1}"
workers="${WORKERS:-$((threads == 1 ? SLURM_CPUS_PER_TASK : 1))}"
scheduler="tcp://$(hostname -f):${PORT:-8786}"

# A part that a fifth worker is lost with is given up, by its name.
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=4
export OMP_NUM_THREADS=1
export GDAL_CACHEMAX="${GDAL_CACHEMAX:-256}"

dask scheduler --port "${PORT:-8786}" --no-dashboard &
srun dask worker "$scheduler" --nworkers "$workers" --nthreads "$threads" --memory-limit 0 --no-dashboard \
    --local-directory "${TMPDIR:-/tmp}" &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

geovit classify "$SCENE" --model "$MODEL" --out "$OUT" --dask "$scheduler" --resume "$@"
