#!/usr/bin/env bash
# Train a dense, a routed and a masking network on CIFAR-10, score them under every guidance setting, compare them.
# A second call continues where the first one stopped, and skips what is trained or scored.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/env.sh

SUMMARY="Make what RESULTS.md shows: train three networks on CIFAR-10, score, sweep, and compare them. Flags after the
-- go to every command, such as -- --config.data.data_dir=DIR --config.evaluate.samples=1000."
option runs RUNS runs "folder of the runs, of their feature network and of the comparison"
option networks NETWORKS "routing dense masking" "which networks"
switch small SMALL "the small networks of configs/cifar10_small_*.py, for a CPU, instead of DiT-S/2"
parse "$@"

name=cifar10 config=cifar10_dit_s2 half=20 weak_steps=(5000 10000 15000 20000 25000)
[ -z "$SMALL" ] || name=small config=cifar10_small half=10 weak_steps=(1000 2000 3000 4000)
read -ra kinds <<<"$NETWORKS"
for kind in "${kinds[@]}"; do
  [[ " routing dense masking " == *" $kind "* ]] ||
    fail "--networks $NETWORKS must be some of routing, dense and masking."
done

main() { # KIND FLAGS...
  run python -m sg_jax.main --config "configs/${config}_$1.py" --workdir "$RUNS/${name}_$1" \
    --config.features.path="$RUNS/${name}_features.npz" "${@:2}" ${MAIN_ARGS[@]+"${MAIN_ARGS[@]}"}
}

run prepare_environment
for kind in "${kinds[@]}"; do main "$kind" --mode=train; done
for kind in "${kinds[@]}"; do
  for step in "${weak_steps[@]}"; do # the distance over the time of training
    main "$kind" --mode=evaluate --config.evaluate.step="$step" --config.evaluate.guidance=unguided,sg_150
  done
  # Heun evaluates twice per step: half of the steps cost the same.
  main "$kind" --mode=evaluate --config.sampler.name=heun --config.sample.steps="$half" \
    --config.evaluate.guidance=unguided,cfg_150,sg_150,sg_flops_150
  main "$kind" --mode=evaluate # last, so that guidance.png and report.html show all settings
done
for kind in "${kinds[@]}"; do [ "$kind" = dense ] || main "$kind" --mode=sweep; done
for kind in "${kinds[@]}"; do main "$kind" --mode=diversity; done
run python -m sg_jax.evaluation.compare "${kinds[@]/#/$RUNS/${name}_}" --out "$RUNS/${name}_comparison"
