#!/usr/bin/env bash
# Install, train a routed DiT on real handwritten digits, sample it with Sparse Guidance, score it.
# A second call continues where the first one stopped. Usage: bash launch/quickstart.sh [WORKDIR]
set -euo pipefail
if [[ "${1:-}" == -* ]]; then
  sed -n 's/^# //p' "$0"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/env.sh
prepare_environment ""
python -m sg_jax.main --config configs/digits.py --workdir "${1:-runs/digits}" --mode train
