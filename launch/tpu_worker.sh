#!/usr/bin/env bash
# On a TPU's host, run by tpu_vm.sh and tpu_pod.sh: install sg_jax, and make systemd run the command, now and after
# every boot.
#
# Usage: bash launch/tpu_worker.sh [flags of python -m sg_jax.main]
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. launch/env.sh
usage "$@"

if [ ! -x .venv/bin/python ]; then
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python3 -c 'import ensurepip' 2>/dev/null || sudo apt-get install --yes --quiet python3-venv
  else # the images with Ubuntu 22.04 have Python 3.10
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
  fi
fi
prepare_environment tpu

echo "exec bash launch/keep_running.sh .venv/bin/python -m sg_jax.main $(quoted "$@")" >.command.sh
# KillMode: a stop signals keep_running.sh alone, which passes it on. TimeoutStopSec leaves time to save.
# MAX_FAILURES: a host whose neighbour is away fails every five minutes, so it waits about two hours for it.
# LimitMEMLOCK: the TPU driver pins host memory. Huge pages: JAX asks for them on v5e and later.
sudo tee /etc/systemd/system/sg_jax.service >/dev/null <<END
[Unit]
Description=sg_jax
Wants=network-online.target
After=network-online.target

[Service]
User=$(id -un)
WorkingDirectory=$PWD
Environment=PYTHONUNBUFFERED=1 MAX_FAILURES=30
ExecStartPre=-+/bin/sh -c "echo always >/sys/kernel/mm/transparent_hugepage/enabled"
ExecStart=/bin/bash $PWD/.command.sh
KillMode=mixed
TimeoutStopSec=600
LimitMEMLOCK=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
END
sudo systemctl daemon-reload
sudo systemctl enable --quiet sg_jax
sudo systemctl restart sg_jax
