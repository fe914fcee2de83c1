# shellcheck shell=bash
# Sourced by the scripts next to it: options, --help, --dry-run, and errors that say what to do.
# A script declares its verbs and options, and then calls: parse "$@"

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
shopt -u patsub_replacement 2>/dev/null || true # bash 5.2: an & in a replacement stays an &
SUMMARY="" VERB="" DRY_RUN=""
VERBS=() OPTIONS=() MAIN_ARGS=() # MAIN_ARGS goes to python -m sg_jax.main
if ! declare -A VARIABLE=() MEANING=() IS_SWITCH=() 2>/dev/null; then
  echo "Error: this is bash $BASH_VERSION, and ${0##*/} needs bash 4 or later. On a Mac: brew install bash" >&2
  exit 2
fi

# verb NAME MEANING
verb() {
  VERBS+=("$1")
  MEANING["$1"]="$2"
}

# option NAME VARIABLE DEFAULT MEANING: --NAME VALUE, otherwise $VARIABLE, otherwise DEFAULT
option() {
  OPTIONS+=("--$1")
  VARIABLE["--$1"]="$2"
  MEANING["--$1"]="$4"
  printf -v "$2" '%s' "${!2:-$3}"
}

# switch NAME VARIABLE MEANING: --NAME, or VARIABLE=yes
switch() {
  option "$1" "$2" "" "$3"
  IS_SWITCH["--$1"]=yes
  [ -z "${!2}" ] || [ "${!2}" = yes ] || fail "$2=${!2} must be yes or empty. It means: $3."
}

fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 2
}

help() {
  local flag value
  printf '%s\n\nUsage: bash %s %s[options] -- [flags of python -m sg_jax.main]\n' \
    "$SUMMARY" "launch/${0##*/}" "${VERBS[0]:+VERB }"
  if [ -n "${VERBS[0]:-}" ]; then
    printf '\nVerbs:\n'
    for flag in "${VERBS[@]}"; do printf '  %-12s %s\n' "$flag" "${MEANING[$flag]}"; done
  fi
  printf '\nOptions, each with the environment variable that is its default [and its value now]:\n'
  for flag in "${OPTIONS[@]}"; do
    value="${!VARIABLE[$flag]}"
    printf '  %-20s %s %s%s\n' "$flag" "${VARIABLE[$flag]}:" "${MEANING[$flag]}" "${value:+ [$value]}"
  done
  printf '  %-20s %s\n' --dry-run "print every command instead of running it" --help "print this"
}

parse() {
  local flag value
  case "${1:-}" in --help | -h) help && exit 0 ;; esac
  if [ -n "${VERBS[0]:-}" ]; then
    VERB="${1:-}"
    [[ -n $VERB && " ${VERBS[*]} " == *" $VERB "* ]] ||
      fail "'$VERB' is not a verb of ${0##*/}: use one of ${VERBS[*]}. --help explains them."
    shift
  fi
  while [ $# -gt 0 ]; do
    flag="${1%%=*}"
    case "$1" in
      --)
        MAIN_ARGS=("${@:2}")
        break
        ;;
      --help | -h) help && exit 0 ;;
      --dry-run) DRY_RUN=yes ;;
      *)
        [ -n "${VARIABLE[$flag]:-}" ] ||
          fail "'$1' is not an option of ${0##*/}: its options are ${OPTIONS[*]} --dry-run --help." \
            "Flags of sg_jax.main, such as --config, go after a separate --."
        if [ -n "${IS_SWITCH[$flag]:-}" ]; then
          value=yes
        elif [[ $1 == *=* ]]; then
          value="${1#*=}"
        else
          [ $# -ge 2 ] || fail "$flag needs a value: ${MEANING[$flag]}."
          value="$2"
          shift
        fi
        printf -v "${VARIABLE[$flag]}" '%s' "$value"
        ;;
    esac
    shift
  done
}

# require OPTION...: stop unless each has a value
require() {
  local flag
  for flag in "$@"; do
    [ -n "${!VARIABLE[$flag]}" ] ||
      fail "$flag is missing: ${MEANING[$flag]}. Give $flag VALUE, or set the environment variable" \
        "${VARIABLE[$flag]}."
  done
}

# Print a command as one line that a shell can read back.
quoted() {
  local word line="" apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//$apostrophe/$escaped}'"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Run a command and show it; with --dry-run only show it.
run() {
  if [ -n "$DRY_RUN" ]; then
    quoted "$@"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# Settle WORKDIR and MAIN_ARGS: the folder comes from --workdir before or after the --, or from WORKDIR.
settle_main() {
  local i given=""
  [ -n "${MAIN_ARGS[0]:-}" ] ||
    fail "there is nothing to run: give the flags of python -m sg_jax.main after a --, such as" \
      "-- --config configs/digits.py --mode train."
  for ((i = 0; i < ${#MAIN_ARGS[@]}; i++)); do
    case "${MAIN_ARGS[i]}" in
      --workdir=*) given="${MAIN_ARGS[i]#*=}" ;;
      --workdir) given="${MAIN_ARGS[i + 1]:-}" ;;
    esac
  done
  if [ -z "$given" ]; then
    require --workdir
    MAIN_ARGS+=("--workdir=$WORKDIR")
  elif [ -n "$WORKDIR" ] && [ "$WORKDIR" != "$given" ]; then
    fail "two folders for one run: $WORKDIR (--workdir or WORKDIR) and $given (after the --)." \
      "Keep one of them."
  fi
  WORKDIR="${given:-$WORKDIR}"
}

require_bucket() {
  [[ $WORKDIR == gs://?* ]] ||
    fail "--workdir $WORKDIR is a path on one machine, but this run uses several: each of them writes" \
      "its part of every checkpoint there, and a machine's own disk is lost with the machine. Give" \
      "a folder in a bucket, such as gs://BUCKET/runs/NAME (gcloud storage buckets create gs://BUCKET)."
}

say_where() {
  [ -n "$WORKDIR" ] || return 0
  case "$WORKDIR" in
    gs://*) echo "Metrics: $WORKDIR/metrics.jsonl" >&2 ;; # no TensorBoard events in a bucket
    *) echo "Metrics: $WORKDIR/metrics.jsonl. TensorBoard: tensorboard --logdir $WORKDIR/tensorboard" >&2 ;;
  esac
}
