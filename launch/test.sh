#!/usr/bin/env bash
# Install what the tests need and run them.
#
# Usage: bash launch/test.sh [pytest arguments]
# Slow tests are left out by default; bash launch/test.sh -m "" runs all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/env.sh
usage "$@"
prepare_environment test
exec python -m pytest "$@"
