#!/usr/bin/env bash
# Several jax.distributed processes on this machine. Process 0 prints here, and each of the others writes a log
# file. When one fails, the others are ended. Ctrl-C and SIGTERM are passed on once, and this waits while they save.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/env.sh

SUMMARY="Start several processes of sg_jax on this machine, connected by jax.distributed. For the accelerators
of one machine a single process is enough: python -m sg_jax.main."
option processes PROCESSES 2 "how many processes"
option devices DEVICES "" "virtual CPU devices of each process; without it, the devices that JAX finds"
option logs LOGS runs/logs "folder of process_1.log, process_2.log, ..."
option grace GRACE 30 "seconds for the others to end after one fails"
parse "$@"

[[ $PROCESSES =~ ^[1-9][0-9]*$ ]] || fail "--processes $PROCESSES must be a positive number."
[[ $DEVICES =~ ^([1-9][0-9]*)?$ ]] || fail "--devices $DEVICES must be a positive number."
[ -n "${MAIN_ARGS[0]:-}" ] || fail "there is nothing to run: give the flags of python -m sg_jax.main after" \
  "a --, such as -- --config configs/digits.py --workdir runs/digits."

free_port() { # below the ports that the system gives out by itself
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break # nobody answers
  done
  echo "$port"
}

# The command of one process, as words.
process_command() { # ID
  command=(env "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$PROCESSES" "JAX_PROCESS_ID=$1")
  if [ -n "$DEVICES" ]; then
    command+=(JAX_PLATFORMS=cpu
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES")
  fi
  command+=(python -m sg_jax.main "${MAIN_ARGS[@]}")
}

port="$(free_port)"
run prepare_environment
run mkdir -p "$LOGS"
if [ -n "$DRY_RUN" ]; then
  for ((id = 0; id < PROCESSES; id++)); do
    process_command "$id"
    quoted "${command[@]}"
  done
  exit 0
fi

pids=() signals=0
trap 'signals=$((signals + 1))' INT TERM
trap '[ "$signals" -gt 0 ] || signals=1' HUP # of a closed terminal, which may come twice
signal_all() { # SIGNAL
  local pid
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}

set -m # each process in a group of its own: Ctrl-C reaches this script alone, which passes it on
for ((id = 0; id < PROCESSES; id++)); do
  process_command "$id"
  if [ "$id" -eq 0 ]; then
    "${command[@]}" </dev/null &
  else
    "${command[@]}" </dev/null >"$LOGS/process_$id.log" 2>&1 &
  fi
  pids+=("$!")
done
set +m

left=("${!pids[@]}") status=0 ending="" failed=""
while [ "${#left[@]}" -gt 0 ]; do
  sleep 0.1 || true # Ctrl-C ends this one too
  still=()
  for id in "${left[@]}"; do
    if kill -0 "${pids[id]}" 2>/dev/null; then
      still+=("$id")
      continue
    fi
    code=0
    wait "${pids[id]}" || code=$?
    [ "$status" -ne 0 ] || status=$code
    if [ "$code" -ne 0 ] && [ -z "$ending" ]; then
      ending=yes failed=$SECONDS
      echo "local.sh: process $id ended with status $code; ending the others. Logs: $LOGS" >&2
      signal_all TERM
    fi
  done
  left=(${still[@]+"${still[@]}"})
  if [ "$signals" -gt 0 ] && [ -z "$ending" ]; then
    ending=yes
    signal_all TERM
    echo "local.sh: stopping; the processes save first. A second signal ends them immediately." >&2 ||
      true # the terminal may be closed
  elif [ "$signals" -gt 1 ] || { [ -n "$failed" ] && [ $((SECONDS - failed)) -ge "$GRACE" ]; }; then
    signal_all KILL
  fi
done
exit "$status"
