# shellcheck shell=bash
# Sourced by tpu_vm.sh and tpu_pod.sh: what both do with the TPU's hosts ("workers").
# GROUP is the group of gcloud commands: tpu-vm or queued-resources.
#
# The code goes to the hosts as one archive by scp. It holds what git sees in this checkout, committed or
# not, without tests and pictures (under 1 MB). So the hosts need no access to a repository, and 64 hosts get it at
# the same time. On each host a systemd unit runs launch/keep_running.sh, so that the command outlives the
# connection and starts again, from its last checkpoint, after a failure or a reboot.

POLL_SECONDS="${POLL_SECONDS:-60}"

tpu_options() {
  option name NAME sg-jax "name of the TPU"
  option project PROJECT "" "Google Cloud project, as listed by gcloud projects list"
  option zone ZONE "" "zone with TPUs of that type, such as us-central1-a"
  option accelerator-type ACCELERATOR_TYPE "$1" "TPU type: v5litepod-N is v5e, v6e-N is v6e"
  option runtime-version RUNTIME_VERSION "" "software of the hosts; without it, the one for the type"
  switch spot SPOT "spot capacity: cheaper, but may be taken back at any time"
  option workdir WORKDIR "" "folder of the run"
  option create-flags CREATE_FLAGS "" "more flags for gcloud ... create, such as '--network=NET --reserved'"
  option ssh-flags SSH_FLAGS "" "more flags for gcloud ... ssh and scp, such as --internal-ip"
  switch follow FOLLOW "logs: keep printing"
}

tpu_settle() {
  require --name --project --zone --accelerator-type
  [[ $ACCELERATOR_TYPE =~ -[1-9][0-9]*$ ]] ||
    fail "--accelerator-type $ACCELERATOR_TYPE is not a type and a size: it looks like v5litepod-8 or" \
      "v6e-16. A zone's types: gcloud compute tpus accelerator-types list --zone=$ZONE."
  if [ -z "$RUNTIME_VERSION" ]; then
    case "$ACCELERATOR_TYPE" in
      v5litepod-*) RUNTIME_VERSION=v2-alpha-tpuv5-lite ;;
      v5p-*) RUNTIME_VERSION=v2-alpha-tpuv5 ;;
      v6e-*) RUNTIME_VERSION=v2-alpha-tpuv6e ;;
      v2-* | v3-* | v4-*) RUNTIME_VERSION=tpu-ubuntu2204-base ;;
      *) require --runtime-version ;;
    esac
  fi
  case "$VERB" in run | resume | watch) settle_main ;; esac
}

# gcloud_words GROUP VERB TARGET [FLAGS]: set COMMAND
gcloud_words() {
  COMMAND=(gcloud compute tpus "$1" "$2" "${@:3}" "--project=$PROJECT" "--zone=$ZONE")
}

gcloud_tpu() {
  gcloud_words "$@"
  run "${COMMAND[@]}"
}

# read_state FORMAT: set STATE to the state of the TPU, MISSING if there is none, UNKNOWN with --dry-run
read_state() {
  local errors status=0
  gcloud_words "$GROUP" describe "$NAME" "--format=value($1)"
  if [ -n "$DRY_RUN" ]; then
    quoted "${COMMAND[@]}"
    STATE=UNKNOWN
    return
  fi
  errors="$(mktemp)"
  if STATE="$("${COMMAND[@]}" 2>"$errors")"; then
    echo "$NAME is $STATE." >&2
  elif grep -qi "not[_ ]found" "$errors"; then
    STATE=MISSING
    echo "$NAME does not exist." >&2
  else
    cat "$errors" >&2
    status=1
  fi
  rm -f "$errors"
  return "$status"
}

# on_workers WORKERS COMMAND
on_workers() {
  local more=()
  read -ra more <<<"$SSH_FLAGS"
  gcloud_tpu "$GROUP" ssh "$NAME" "--worker=$1" "--command=$2" ${more[@]+"${more[@]}"}
}

# Copy code and command to all workers and start the run there. One that is already running saves and ends first.
start_run() {
  local more=() archive=build/sg_jax.tgz list
  read -ra more <<<"$SSH_FLAGS"
  git rev-parse --git-dir >/dev/null 2>&1 ||
    fail "$PWD is not a git checkout, but git tells which files go to the TPU. Run git init there."
  list="git ls-files -coz --exclude-standard -- . ':!tests' ':!*.png'"
  list+=" | while IFS= read -rd '' f; do [ ! -e \"\$f\" ] || printf '%s\\0' \"\$f\"; done" # git lists deleted files too
  run mkdir -p build
  run bash -c "set -o pipefail; $list | tar -czf $archive --null -T -"
  gcloud_tpu "$GROUP" scp "$archive" "$NAME:sg_jax.tgz" --worker=all ${more[@]+"${more[@]}"}
  on_workers all "sudo systemctl stop sg_jax 2>/dev/null || true; mkdir -p sg_jax && cd sg_jax &&\
 tar -xzf ../sg_jax.tgz && bash launch/tpu_worker.sh $(quoted "${MAIN_ARGS[@]}")"
  [ -n "$DRY_RUN" ] ||
    echo "The run has started. Its log: bash launch/${0##*/} logs --name $NAME --zone $ZONE --project $PROJECT" >&2
  say_where
}

stop_run() {
  on_workers all "sudo systemctl disable --now sg_jax"
}

logs() {
  on_workers 0 "sudo journalctl --unit sg_jax --output cat --lines 200${FOLLOW:+ --follow}"
  say_where
}
