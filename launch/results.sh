#!/usr/bin/env bash
# Train the networks of RESULTS.md, tune every method of guidance alike, and score the best settings.
# A second call continues where the first one stopped, and skips what is already trained or drawn.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/env.sh

SUMMARY="Train networks with several seeds, tune every method of guidance on the first of them, score the best settings
on all, and join the runs. Flags after the -- go to each command that trains or tunes, such as
-- --config.data.data_dir=DIR --config.tune.report_samples=500."
option data DATA cifar10 "digits; small, which is CIFAR-10 at 16x16 pixels for a CPU; or cifar10, DiT-S/2 for a GPU"
option runs RUNS runs "folder of the runs, of their feature network and of what is joined"
option networks NETWORKS "routing dense masking" "which networks; there are also ${VARIANTS:=inner_before inner_in inner_after inner_dense path_drop several_rates all_routes rates_and_routes distilled distilled_ag distilled_rates distilled_routes}"
option seeds SEEDS "0 1 2" "seeds of the trainings; settings are chosen on the first"
parse "$@"

case "$DATA" in # blocks before an inner head: before, in and after the route; steps of distilling
  digits) config=digits_long heads=(1 3 5) short=750 ;;
  small) config=cifar10_small heads=(1 4 7) short=3000 ;;
  cifar10) config=cifar10_dit_s2 heads=(2 6 10) short=7500 ;;
  *) fail "--data $DATA must be digits, small or cifar10." ;;
esac
read -ra kinds <<<"$NETWORKS"
read -ra trainings <<<"$SEEDS"
first="${trainings[0]:-}"
for kind in "${kinds[@]}"; do
  [[ " routing dense masking $VARIANTS " == *" $kind "* ]] ||
    fail "--networks $NETWORKS must be some of routing dense masking $VARIANTS."
done
for seed in "${trainings[@]:-none}"; do
  [[ $seed =~ ^[0-9]+$ ]] || fail "--seeds $SEEDS must be one or more whole numbers, such as \"0 1 2\"."
done

place() { printf '%s/%s_%s_%s' "$RUNS" "$DATA" "$1" "$2"; } # KIND SEED

main() { # KIND SEED FLAGS...
  local kind="$1" seed="$2" network=routing teacher=routing own=()
  local rates="--config.objective.rates=((0.0,0.25),(0.5,0.5),(0.9,0.25))" routes=--config.objective.route_loss=0.1
  case "$kind" in
    dense | masking) network="$kind" ;;
    inner_before) own=(--config.model.inner="${heads[0]}") ;;
    inner_in) own=(--config.model.inner="${heads[1]}") ;;
    inner_after) own=(--config.model.inner="${heads[2]}") ;;
    inner_dense) network=dense own=(--config.model.inner="${heads[1]}") ;;
    path_drop) own=("--config.objective.rates=((0.5,0.95),(1.0,0.05))") ;;
    several_rates) own=("$rates") ;;
    all_routes) own=("$routes") ;;
    rates_and_routes) own=("$rates" "$routes") ;;
    distilled) own=(--config.objective.distill=sg) ;; # the next three: as tuned in RESULTS.md
    distilled_ag)
      own=(--config.objective.distill=ag --config.guidance.ag.scale=2.0 "--config.guidance.ag.interval=(0.5,1.0)")
      ;;
    distilled_rates) own=(--config.objective.distill=ag_sg) teacher=several_rates ;;
    distilled_routes)
      teacher=all_routes
      own=(--config.objective.distill=sg "$routes" "--config.guidance.sg.interval=(0.5,1.0)")
      ;;
  esac
  [[ $kind != distilled* ]] ||
    own+=(--config.train.steps="$short" --config.train.init_from="$(place "$teacher" "$seed")")
  run python -m sg_jax.main --config "configs/${config}_$network.py" --workdir "$(place "$kind" "$seed")" \
    --config.seed="$seed" --config.features.path="$RUNS/${DATA}_features.npz" \
    ${own[@]+"${own[@]}"} "${@:3}" ${MAIN_ARGS[@]+"${MAIN_ARGS[@]}"}
}

methods() { # KIND: what its network was trained for; the others try all
  case "$1" in
    inner_*) echo "('ig','ig_cfg','cfg'" "$([ "$1" = inner_dense ] || echo ",'ig_sg','sg'")" ")" ;;
    path_drop) echo "('pdg','sg','cfg')" ;;
    several_rates | all_routes | rates_and_routes) echo "('sg','cfg','cfg_sg','ag','ag_sg')" ;;
    distilled_routes) echo "('sg','cfg')" ;;
    distilled*) echo "('unguided',)" ;;
    *) echo "('all',)" ;;
  esac | tr -d ' '
}

run prepare_environment
for seed in "${trainings[@]}"; do
  for kind in "${kinds[@]}"; do main "$kind" "$seed" --mode=train; done
done
for kind in "${kinds[@]}"; do
  main "$kind" "$first" --mode=tune --config.tune.methods="$(methods "$kind")"
  joined=("$(place "$kind" "$first")")
  for seed in "${trainings[@]:1}"; do
    main "$kind" "$seed" --mode=tune --config.tune.winners="$(place "$kind" "$first")"
    joined+=("$(place "$kind" "$seed")")
  done
  run python -m sg_jax.main --mode=tune --join "${joined[@]}" --out "$RUNS/${DATA}_${kind}"
done
