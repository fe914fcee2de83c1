# shellcheck shell=bash
# Sourced by the scripts next to it: their --help, and the environment that the project is installed in.

# Memory in large pages saves 12 to 16% of a training step on a CPU (tests/benchmarks/peer.md).
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# usage "$@": if a script's first argument is --help, print the comment at its top, and stop
usage() {
  case "${1:-}" in --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
}

# prepare_environment [EXTRA]: enter the active environment or .venv, and install; EXTRA: test, tpu, cuda or cuda12
prepare_environment() {
  local extra="${1:-}" target="." stamp
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
      python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Error: python3 is $(python3 --version 2>&1); sg_jax needs Python 3.11 or later." \
          "Activate an environment that has it, and run this again." >&2
        return 1
      }
      python3 -m venv .venv || {
        echo "Error: python3 cannot make environments (on Debian: apt-get install python3-venv)." >&2
        rm -rf .venv
        return 1
      }
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
  fi
  [ -n "$extra" ] && target=".[$extra]"
  # Installed already, and setup.py unchanged since? Then this works without a network too.
  stamp="$(python -c 'import sys; print(sys.prefix)')/sg_jax-installed-${extra:-base}"
  if ! cmp -s setup.py "$stamp"; then
    echo "Install sg_jax (about a minute) ..."
    # Modules are compiled when they are first imported: that saves a third of the time.
    python -m pip install --quiet --disable-pip-version-check --no-compile --editable "$target"
    cp setup.py "$stamp"
  fi
}
