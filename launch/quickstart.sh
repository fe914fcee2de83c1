#!/usr/bin/env bash
# Install, train a routed DiT on real handwritten digits, sample it with Sparse Guidance, score it.
# A second call continues where the first one stopped.
#
# Usage: bash launch/quickstart.sh [WORKDIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/env.sh
usage "$@"
if [[ "${1:-}" == -* ]]; then
  echo "Error: '$1' is not a folder, which is all that quickstart.sh takes. --help explains it." >&2
  exit 2
fi
prepare_environment ""
python -m sg_jax.main --config configs/digits.py --workdir "${1:-runs/digits}" --mode train
