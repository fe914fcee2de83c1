#!/usr/bin/env bash
# Run a command until it has done its work. If it fails it is run again, because training continues by itself.
#
# Usage: bash launch/keep_running.sh COMMAND [ARGUMENTS]
#
# Status 0 means done. Status 2 means bad input, which another try would not change. After any other status the
# command runs again, PAUSE_SECONDS (30) later and at most MAX_FAILURES (10) times in a row. A run that lasts
# HEALTHY_SECONDS (600) resets that count. SIGTERM, SIGINT and SIGHUP (a closed terminal) are passed on as one
# SIGTERM, and the command is not run again. After SIGUSR1 it is not run again either, but gets no signal. This
# script ends with its last status.
set -euo pipefail
case "${1:-}" in
  --help | -h)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

pause="${PAUSE_SECONDS:-30}" limit="${MAX_FAILURES:-10}" healthy="${HEALTHY_SECONDS:-600}"
child="" terminate="" passed="" stopping="" failures=0

pass_on() {
  if [ -n "$terminate" ] && [ -n "$child" ] && [ -z "$passed" ]; then
    passed=yes
    kill -TERM "$child" 2>/dev/null || true
  fi
}
trap 'terminate=yes stopping=yes; pass_on' TERM INT HUP
trap 'stopping=yes' USR1

say() { echo "keep_running.sh: $*" >&2; }

while :; do
  started=$SECONDS
  "$@" &
  child=$!
  pass_on # a signal may have come before there was a child
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true # a signal ends this before the command ends
  done
  status=0
  wait "$child" || status=$?
  child=""
  case "$status,$stopping" in 0,* | 2,* | *,yes) exit "$status" ;; esac
  [ $((SECONDS - started)) -lt "$healthy" ] || failures=0
  failures=$((failures + 1))
  if [ "$failures" -gt "$limit" ]; then
    say "status $status, $failures times in a row: giving up."
    exit "$status"
  fi
  say "status $status; trying again in $pause s (failure $failures; up to $limit in a row)."
  sleep "$pause" &
  wait "$!" || kill "$!" 2>/dev/null || true # a signal ends the pause
  [ -z "$stopping" ] || exit "$status"
done
