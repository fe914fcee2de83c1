#!/usr/bin/env bash
# TPU slices on Google Kubernetes Engine, one or several: create them, run sg_jax there, check on it, delete them.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SUMMARY="Run sg_jax on TPU slices of an existing GKE cluster, as a JobSet (launch/gke_jobset.yaml). The folder of
the run is in a bucket that the nodes' service account may write to. Needs gcloud, kubectl, docker."
verb create "a node pool for each slice, and the JobSet controller"
verb image "build the image from this checkout and push it"
verb run "image, then apply the JobSet; a run under that name saves first"
verb resume "apply the JobSet again, which restarts by itself up to --max-restarts times"
verb logs "the log of process 0"
verb status "the JobSet, its Pods, the node pools"
verb stop "save and end the run; the node pools stay"
verb delete "stop, and delete the node pools"
option name NAME sg-jax "name of the run; its node pools are NAME-0, NAME-1, ..."
option project PROJECT "" "Google Cloud project, as listed by gcloud projects list"
option cluster CLUSTER "" "name of the GKE cluster"
option location LOCATION "" "region or zone of the cluster, such as us-central1"
option zone ZONE "" "zone with TPUs of that type, such as us-central1-a"
option tpu TPU v5e "kind of TPU: v4, v5e, v5p or v6e"
option topology TOPOLOGY 4x4 "chips of a slice, such as 4x4 or 4x4x4"
option slices SLICES 2 "number of slices"
option image IMAGE "" "container image, such as us-docker.pkg.dev/PROJECT/REPOSITORY/sg_jax"
option max-restarts MAX_RESTARTS 100 "how often the JobSet restarts by itself, preemptions included"
option workdir WORKDIR "" "folder of the run"
option jobset-version JOBSET_VERSION v0.10.1 "version of the JobSet controller"
option create-flags CREATE_FLAGS "" "more flags for gcloud container node-pools create"
switch spot SPOT "spot capacity: cheaper, but may be taken back at any time"
switch follow FOLLOW "logs: keep printing"
parse "$@"

require --name --project --cluster --location
case "$TPU" in
  v4) ACCELERATOR=tpu-v4-podslice MACHINE=ct4p-hightpu-4t ;;
  v5e) ACCELERATOR=tpu-v5-lite-podslice MACHINE=ct5lp-hightpu-4t ;;
  v5p) ACCELERATOR=tpu-v5p-slice MACHINE=ct5p-hightpu-4t ;;
  v6e) ACCELERATOR=tpu-v6e-slice MACHINE=ct6e-standard-4t ;;
  *) fail "--tpu $TPU must be v4, v5e, v5p or v6e." ;;
esac
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "--slices $SLICES must be a positive number."
[[ $MAX_RESTARTS =~ ^[0-9]+$ ]] || fail "--max-restarts $MAX_RESTARTS must be a number."
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
  fail "--name $NAME must be up to 32 lower-case letters, digits and dashes, a letter first (Kubernetes)."
[[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology $TOPOLOGY must look like 4x4 or 4x4x4."
CHIPS=4 # of a host, in all these machine types
HOSTS=$((${TOPOLOGY//x/*}))
[ $((HOSTS % CHIPS)) -eq 0 ] ||
  fail "--topology $TOPOLOGY has $HOSTS chips, which must be a multiple of $CHIPS, those of a host."
HOSTS=$((HOSTS / CHIPS))

kubectl_here() { run kubectl "--context=gke_${PROJECT}_${LOCATION}_$CLUSTER" "$@"; }
pools() { run gcloud container node-pools "$@" "--cluster=$CLUSTER" "--location=$LOCATION" "--project=$PROJECT"; }

# The words as a YAML list. Kubernetes would fill in $(NAME); $$( is how it writes a plain $(.
json_list() {
  local word line="" open="\$(" doubled="\$\$("
  for word in "$@"; do
    [[ $word != *[[:cntrl:]]* ]] ||
      fail "a flag of sg_jax.main contains a line break or a tab, which the manifest cannot hold."
    word="${word//\\/\\\\}"
    word="${word//\"/\\\"}"
    line+="${line:+, }\"${word//"$open"/$doubled}\""
  done
  echo "[$line]"
}

manifest() {
  local text command
  command="$(json_list python -m sg_jax.main "${MAIN_ARGS[@]}")" || return
  text="$(<launch/gke_jobset.yaml)"
  set -- NAME "$NAME" MAX_RESTARTS "$MAX_RESTARTS" SLICES "$SLICES" HOSTS "$HOSTS" CHIPS "$CHIPS" \
    ACCELERATOR "$ACCELERATOR" TOPOLOGY "$TOPOLOGY" IMAGE "$IMAGE" COMMAND "$command"
  while [ $# -gt 0 ]; do
    text="${text//@$1@/$2}"
    shift 2
  done
  printf '%s\n' "$text"
}

create() {
  local more=() slice
  require --zone
  read -ra more <<<"$CREATE_FLAGS"
  if [ "$HOSTS" -gt 1 ]; then more+=("--placement-type=COMPACT" "--tpu-topology=$TOPOLOGY"); fi
  run gcloud container clusters get-credentials "$CLUSTER" "--location=$LOCATION" "--project=$PROJECT"
  kubectl_here apply --server-side --filename \
    "https://github.com/kubernetes-sigs/jobset/releases/download/$JOBSET_VERSION/manifests.yaml"
  for ((slice = 0; slice < SLICES; slice++)); do
    pools create "$NAME-$slice" "--node-locations=$ZONE" "--machine-type=$MACHINE" "--num-nodes=$HOSTS" \
      --scopes=cloud-platform ${SPOT:+--spot} ${more[@]+"${more[@]}"}
  done
}

image() {
  require --image
  run docker build --platform linux/amd64 --file launch/Dockerfile --tag "$IMAGE" .
  run docker push "$IMAGE"
}

apply() { # TEXT
  local file="build/$NAME.yaml"
  stop
  run mkdir -p build
  if [ -n "$DRY_RUN" ]; then
    printf "cat >%s <<'END'\n%s\nEND\n" "$file" "$1"
  else
    printf '%s\n' "$1" >"$file"
  fi
  kubectl_here apply --filename "$file"
  say_where
}

# In the foreground: wait until the Pods have saved and are gone.
stop() { kubectl_here delete jobset "$NAME" --ignore-not-found --cascade=foreground; }

case "$VERB" in
  create | image | stop) "$VERB" ;;
  run | resume)
    require --image
    settle_main
    require_bucket
    text="$(manifest)"
    if [ "$VERB" = run ]; then image; fi
    apply "$text"
    ;;
  logs)
    labels="jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0"
    labels+=",batch.kubernetes.io/job-completion-index=0"
    kubectl_here logs --selector "$labels" --tail 200 ${FOLLOW:+--follow}
    say_where
    ;;
  status)
    kubectl_here get jobset "$NAME"
    kubectl_here get pods --selector "jobset.sigs.k8s.io/jobset-name=$NAME" --output wide
    pools list
    ;;
  delete)
    stop
    for ((slice = 0; slice < SLICES; slice++)); do pools delete "$NAME-$slice" --quiet; done
    ;;
esac
