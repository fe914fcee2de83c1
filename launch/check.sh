#!/usr/bin/env bash
# Check what must pass before a change lands. The commit hooks and the hosted workflow run this too.
#
# Usage: bash launch/check.sh [CHECK...]
# CHECK is lint, format, shell, types or tests; without any, all of them run in this order.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/env.sh
usage "$@"
[ $# -gt 0 ] || set -- lint format shell types tests

run() {
  echo "+ $*" >&2
  "$@"
}

prepare_environment test
for check in "$@"; do
  case "$check" in
    lint) run python -m ruff check . ;;
    format) run python -m ruff format --check . ;;
    shell) run shellcheck -x .ci/run launch/*.sh ;;
    types) run python -m mypy ;; # of the files that .mypy.ini names
    tests) run bash launch/test.sh ;;
    *)
      echo "Error: '$check' is not a check: use some of lint, format, shell, types and tests." >&2
      exit 2
      ;;
  esac
done
