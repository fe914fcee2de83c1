"""A checkout's launch scripts among stand-ins for the clouds' commands, which note their calls."""

import fcntl
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import termios
import time

ROOT = pathlib.Path(__file__).parents[2]
MAIN = ["--config", "configs/digits.py", "--config.model.routes=((2,9),)", "--note=it's 2 $HOME"]
RUN = ["--workdir=gs://bucket/run", "--", *MAIN]  # what follows the verb
ZONE = ["--project=p", "--zone=z"]
GKE = ["--project=p", "--cluster=c", "--location=l", "--zone=z", "--image=i"]

FAKE = r"""#!/bin/bash
{ printf '%s\0' "${0##*/}" "$@"; echo; } >>"$CALLS"
case "${0##*/} $*" in
  *" describe "*) # the next state
    state="$(head -n 1 "$STATES")"
    sed -i 1d "$STATES"
    [ "$state" != BROKEN ] || exit 1
    [ "$state" != MISSING ] || { echo "ERROR: NOT_FOUND: no such thing" >&2; exit 1; }
    echo "$state" ;;
  *is-active*) echo "$ACTIVE" ;;
  *" scp "*) cp "$5" "$HOME/${6#*:}" ;;
  *" ssh "*tar*) cd "$HOME"; bash -c "${7#--command=}" ;;
  "sudo tee "*) cat >"$HOME/${2##*/}" ;;
  "sudo systemctl stop"*) exit 5 ;; # there is no unit yet
esac
"""
PYTHON = r"""#!/bin/bash
if [ "$1" = -c ]; then echo "$HOME"; exit; fi # sys.prefix, or a check that passes
until_term() {
  local terms=0
  trap 'terms=$((terms + 1))' TERM
  echo ready
  while [ "$terms" -eq 0 ]; do sleep 0.02; done
  sleep 0.3
  echo "saved after $terms"
  exit 1
}
echo "process $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS $XLA_FLAGS"
printf '<%s>' "$@"; echo
eval "$BEHAVIOUR"
"""


def take_terminal() -> None:
    """Make standard input the terminal of this session, whose signals are not ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):  # as in the background, and under nohup
        signal.signal(number, signal.SIG_DFL)


class Place:
    """A copy of the checkout, a home, and a PATH whose clouds are stand-ins."""

    def __init__(self, folder: pathlib.Path):
        self.home, self.repository = folder / "home", folder / "repository"
        self.calls_file = folder / "calls"
        shutil.copytree(ROOT / "launch", self.repository / "launch")
        for path in ("setup.py", "configs/digits.py", ".gitignore"):
            (self.repository / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, self.repository / path)
        subprocess.run(["git", "init", "--quiet"], cwd=self.repository, check=True)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.home.mkdir()
        for extra in ("base", "cuda", "cuda12", "test", "tpu"):  # as if installed
            shutil.copy(ROOT / "setup.py", self.home / f"sg_jax-installed-{extra}")
        for name in "gcloud kubectl docker sbatch scancel scontrol squeue sudo".split():
            self.command(self.bin / name, FAKE)
        for name in ("python", "python3"):
            self.command(self.bin / name, PYTHON)
        self.states = folder / "states"
        self.environment = dict(
            PATH=f"{self.bin}:/usr/bin:/bin",
            HOME=str(self.home),
            VIRTUAL_ENV=str(self.home),
            CALLS=str(self.calls_file),
            STATES=str(self.states),
            POLL_SECONDS="0",
            PAUSE_SECONDS="0",
        )

    def command(self, path: pathlib.Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def popen(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(self.repository / "launch" / script), *arguments],
            env={**self.environment, **environment},
            cwd=self.repository if script == "slurm_job.sh" else self.home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def on_terminal(self, script: str, *arguments: str, **environment: str):
        """Start a script in the foreground of a terminal; return it and the terminal's end."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            ["bash", str(self.repository / "launch" / script), *arguments],
            env={**self.environment, **environment},
            cwd=self.home,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(its)
        return process, ours

    def run(self, script: str, *arguments: str, states=(), status=0, **environment: str):
        """Run to the end, check the status, and return (stdout, stderr)."""
        self.states.write_text("".join(f"{state}\n" for state in states))
        process = self.popen(script, *arguments, **environment)
        out, err = process.communicate(timeout=20)
        assert process.returncode == status, err
        return out, err

    def dry_run(self, script: str, *arguments: str) -> str:
        """Return what a script would do, having checked that it did nothing."""
        out, _ = self.run(script, *arguments, "--dry-run", *RUN)
        assert self.calls() == [] and not (self.repository / "build").exists()
        return out

    def calls(self) -> list[list[str]]:
        """Words of the calls of the stand-ins so far."""
        if not self.calls_file.exists():
            return []
        return [line.split("\0")[:-1] for line in self.calls_file.read_text().split("\n")[:-1]]


def wait_for(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
