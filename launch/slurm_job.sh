#!/usr/bin/env bash
# The job that slurm.sh submits: one process per GPU.
#
# Usage: sbatch ... launch/slurm_job.sh LOG_PREFIX EXTRA [flags of python -m sg_jax.main]
#
# jax.distributed reads its place from SLURM_PROCID and so on, and takes GPU number SLURM_LOCALID of the node. So every
# process has to see all GPUs of its node, hence --gpu-bind=none.
#
# SIGUSR1 (from sbatch --signal, when the time is nearly up): save, and go back to the queue. SIGTERM (from
# slurm.sh cancel): save, and end. A preempted job is sent SIGTERM and requeued by Slurm itself.
set -euo pipefail
. launch/env.sh
usage "$@"
prepare_environment "$2"

log="$1" again="" status=0
# shellcheck disable=SC2317,SC2329 # traps call it
stop() { # srun would kill the processes if it got SIGTERM: Slurm tells them instead
  kill -USR1 "$runner" # not once more
  scancel --signal=TERM "$SLURM_JOB_ID" || true
}
trap 'again=yes; stop' USR1
trap 'stop' TERM

# --wait: when one process has ended, the others have 300 s to finish saving.
bash launch/keep_running.sh srun --gpu-bind=none --kill-on-bad-exit=0 --wait=300 --open-mode=append \
  "--output=$log-%t.log" "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}" \
  python -u -m sg_jax.main "${@:3}" &
runner=$!
while kill -0 "$runner" 2>/dev/null; do wait "$runner" || true; done # a signal ends wait
wait "$runner" || status=$?
if [ -n "$again" ] && [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; then
  echo "slurm_job.sh: saved before the time limit; back to the queue."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
