#!/usr/bin/env bash
# A TPU pod slice (several hosts), requested as a queued resource: create it, run sg_jax there, check on it, delete it.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/tpu_common.sh
GROUP=queued-resources

SUMMARY="Run sg_jax on all hosts of a TPU pod slice. The folder of the run is in a bucket (--workdir gs://...).
Before the first run: ssh-add ~/.ssh/google_compute_engine (gcloud makes that key at the first ssh)."
verb create "queue for the slice; returns immediately"
verb run "wait for the slice, bring code and command to all hosts, start"
verb resume "after a preemption: queue again, wait, run; the run continues from its last checkpoint"
verb watch "resume whenever needed, until the run ends; leave this command running"
verb logs "the log of process 0"
verb status "the queued resource, and the run on every host"
verb ssh "a shell on host 0"
verb stop "save and end the run; the slice stays"
verb delete "delete the slice and its place in the queue"
tpu_options v5litepod-16
ARGUMENTS=("$@")
parse "$@"
tpu_settle
case "$VERB" in run | resume | watch) require_bucket ;; esac

create() {
  local more=()
  read -ra more <<<"$CREATE_FLAGS"
  gcloud_tpu queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR_TYPE" \
    "--runtime-version=$RUNTIME_VERSION" --async ${SPOT:+--spot} ${more[@]+"${more[@]}"}
}

delete() { gcloud_tpu queued-resources delete "$NAME" --force --quiet; }

# wait_active [restore]: wait for the slice, which may take hours; "restore" queues again if it was taken away
wait_active() {
  local failures=0
  while :; do
    read_state state.state
    case "${1:-wait} $STATE" in
      *\ ACTIVE | wait\ UNKNOWN) break ;;
      restore\ UNKNOWN)
        echo "# if it was preempted (SUSPENDED or FAILED):"
        delete
        create
        echo "# then:"
        break
        ;;
      wait\ MISSING | wait\ FAILED | wait\ SUSPEND* | wait\ DELETING)
        fail "$NAME is $STATE, so there is no slice to wait for. The verb create asks for one; resume" \
          "asks again for one that was taken away, and runs."
        ;;
      restore\ MISSING) create ;;
      restore\ SUSPENDED)
        delete
        create
        ;;
      restore\ FAILED)
        failures=$((failures + 1))
        [ "$failures" -eq 1 ] || fail "$NAME FAILED again; the verb status says why."
        delete
        create
        ;;
      *) sleep "$POLL_SECONDS" ;;
    esac
  done
}

resume() {
  wait_active restore
  start_run
}

watch() {
  local running="" status answer
  while :; do
    if [ -z "$running" ]; then
      status=0
      bash launch/tpu_pod.sh resume "${ARGUMENTS[@]:1}" || status=$?
      if [ "$status" -eq 2 ] || [ -n "$DRY_RUN" ]; then return "$status"; fi
      [ "$status" -ne 0 ] || running=yes # otherwise taken away meanwhile, perhaps: try again
    fi
    sleep "$((POLL_SECONDS * 5))"
    [ -n "$running" ] || continue
    read_state state.state || continue # the connection of this machine
    if [ "$STATE" != ACTIVE ]; then
      running=""
      continue
    fi
    answer="$(on_workers 0 "systemctl is-active sg_jax || true" || true)"
    case "$answer" in
      *inactive*)
        echo "The run has ended." >&2
        return 0
        ;;
      *failed*)
        echo "The run has failed again and again; the verb logs shows why." >&2
        return 1
        ;;
    esac
  done
}

case "$VERB" in
  create | delete | resume | watch | logs) "$VERB" ;;
  run)
    wait_active
    start_run
    ;;
  stop) stop_run ;;
  status)
    gcloud_tpu queued-resources describe "$NAME"
    on_workers all "systemctl status sg_jax --no-pager --lines 3 || true"
    ;;
  ssh)
    read -ra more <<<"$SSH_FLAGS"
    gcloud_tpu queued-resources ssh "$NAME" ${more[@]+"${more[@]}"}
    ;;
esac
