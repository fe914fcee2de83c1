#!/usr/bin/env bash
# Install what the tests need and run them. Usage: bash launch/test.sh [pytest arguments]
# The default leaves out the slow ones; all of them: bash launch/test.sh -m ""
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/env.sh
prepare_environment test
exec python -m pytest "$@"
