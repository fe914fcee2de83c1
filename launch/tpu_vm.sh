#!/usr/bin/env bash
# One TPU VM (a single host): create it, run sg_jax there, check on it, delete it.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/tpu_common.sh
GROUP=tpu-vm

SUMMARY="Run sg_jax on one TPU VM. A folder in a bucket (--workdir gs://...) outlives the machine; any other is
on its disk, seen from ~/sg_jax."
verb create "create the machine"
verb run "copy code and command there, and start; a run that is already there saves first"
verb resume "after a stop, a preemption or a failure: make the machine ready again, then run"
verb logs "the log of the run"
verb status "the machine, and the run on it"
verb ssh "a shell there"
verb stop "save and end the run; the machine stays"
verb delete "delete the machine with its disk"
tpu_options v5litepod-8
parse "$@"
tpu_settle
[ "${ACCELERATOR_TYPE##*-}" -le 8 ] ||
  fail "--accelerator-type $ACCELERATOR_TYPE has several hosts (more than 8 chips or cores): start it with" \
    "launch/tpu_pod.sh."

create() {
  local more=()
  read -ra more <<<"$CREATE_FLAGS"
  gcloud_tpu tpu-vm create "$NAME" "--accelerator-type=$ACCELERATOR_TYPE" "--version=$RUNTIME_VERSION" \
    ${SPOT:+--spot} ${more[@]+"${more[@]}"}
}

delete() { gcloud_tpu tpu-vm delete "$NAME" --quiet; }

require_outlived() {
  [[ $WORKDIR == gs://* ]] ||
    fail "$NAME is $STATE, and --workdir $WORKDIR was on its disk: there is nothing left to resume. Start" \
      "over with delete, create and run; a folder in a bucket (gs://...) would have outlived the machine."
}

resume() {
  while :; do
    read_state state
    case "$STATE" in
      READY) break ;;
      STOPPED) gcloud_tpu tpu-vm start "$NAME" ;;
      MISSING)
        require_outlived
        create
        ;;
      PREEMPTED | TERMINATED)
        require_outlived
        delete
        create
        ;;
      UNKNOWN)
        echo "# if it was stopped:"
        gcloud_tpu tpu-vm start "$NAME"
        echo "# if it was preempted, and the folder is in a bucket:"
        delete
        create
        echo "# then:"
        break
        ;;
      *) sleep "$POLL_SECONDS" ;;
    esac
  done
  start_run
}

case "$VERB" in
  create | delete | resume | logs) "$VERB" ;;
  run) start_run ;;
  stop) stop_run ;;
  status)
    gcloud_tpu tpu-vm describe "$NAME" "--format=yaml(name,state,health,acceleratorType,runtimeVersion)"
    on_workers 0 "systemctl status sg_jax --no-pager --lines 5 || true"
    ;;
  ssh)
    read -ra more <<<"$SSH_FLAGS"
    gcloud_tpu tpu-vm ssh "$NAME" ${more[@]+"${more[@]}"}
    ;;
esac
