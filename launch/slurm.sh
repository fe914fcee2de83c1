#!/usr/bin/env bash
# A Slurm cluster with NVIDIA GPUs: submit sg_jax, check on it, save and end it.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/env.sh

SUMMARY="Run sg_jax on the GPUs of a Slurm cluster, one process per GPU, which is what jax.distributed expects
there. This checkout, its environment and the folder of the run must be on a disk that all nodes see. At its
time limit, or when it is preempted, the job saves, queues again and continues. Set any other option of sbatch
by its SBATCH_... variable."
verb run "install here, on the login node, and submit; it waits for a job of the same name to end"
verb resume "the same: a run continues from its last checkpoint"
verb logs "the log of process 0"
verb status "the job in the queue"
verb cancel "save and end the run"
option name NAME sg-jax "name of the job"
option nodes NODES 1 "number of nodes"
option gpus GPUS 8 "GPUs, and processes, of each node"
option cpus CPUS 8 "CPU cores of each process"
option time TIME_LIMIT "" "time limit, such as 24:00:00; without it, the partition's"
option extra CUDA_EXTRA cuda "what is installed: cuda, or cuda12 for a driver older than 580"
option partition PARTITION "" "partition; without it, the cluster's default"
option account ACCOUNT "" "account; without it, your default"
option save-seconds SAVE_SECONDS 300 "how long before its end the job saves"
option logs LOGS runs/slurm "folder of NAME.log, NAME-0.log, NAME-1.log, ..., on a disk that all nodes see"
option workdir WORKDIR "" "folder of the run"
switch follow FOLLOW "logs: keep printing"
parse "$@"

require --name
for number in --nodes --gpus --cpus --save-seconds; do
  [[ ${!VARIABLE[$number]} =~ ^[1-9][0-9]*$ ]] ||
    fail "$number ${!VARIABLE[$number]} must be a positive number: ${MEANING[$number]}."
done
case "$CUDA_EXTRA" in
  cuda | cuda12) ;;
  *) fail "--extra $CUDA_EXTRA must be cuda, or cuda12 for a driver older than 580." ;;
esac

submit() {
  settle_main
  case "$WORKDIR" in
    /tmp/* | /var/tmp/* | /dev/shm/*)
      fail "--workdir $WORKDIR is on one node's own disk, and the job may continue on others. Give a folder on" \
        "a disk that all nodes see, or in a bucket."
      ;;
  esac
  run prepare_environment "$CUDA_EXTRA"
  run mkdir -p "$LOGS"
  # singleton: a job of this name and user starts when the one before has ended, so that one run has one writer.
  run sbatch "--job-name=$NAME" --dependency=singleton "--nodes=$NODES" "--ntasks-per-node=$GPUS" \
    "--gpus-per-node=$GPUS" "--cpus-per-task=$CPUS" ${TIME_LIMIT:+"--time=$TIME_LIMIT"} \
    ${PARTITION:+"--partition=$PARTITION"} ${ACCOUNT:+"--account=$ACCOUNT"} \
    --requeue "--signal=B:USR1@$SAVE_SECONDS" --open-mode=append "--output=$LOGS/$NAME.log" \
    launch/slurm_job.sh "$LOGS/$NAME" "$CUDA_EXTRA" "${MAIN_ARGS[@]}"
  say_where
}

cancel() {
  local user
  user="$(id -un)"
  run scancel "--name=$NAME" "--user=$user" --state=PENDING
  # Only to the job's script: launch/slurm_job.sh lets the processes save.
  run scancel "--name=$NAME" "--user=$user" --state=RUNNING --batch --signal=TERM
}

case "$VERB" in
  run | resume) submit ;;
  logs)
    run tail --lines=20 "$LOGS/$NAME.log"
    run tail --lines=200 ${FOLLOW:+--follow} "$LOGS/$NAME-0.log"
    say_where
    ;;
  status) run squeue "--name=$NAME" "--user=$(id -un)" "--format=%i %T %M of %l, %D nodes: %R" ;;
  cancel) cancel ;;
esac
