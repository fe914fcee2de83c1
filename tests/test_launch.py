"""The launch scripts, with stand-ins for the clouds' commands that note how they were called."""

import fcntl
import os
import pathlib
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time

import jax
import pytest
from absl import flags

from sg_jax import config, experiment, network

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
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
        for extra in ("base", "cuda", "tpu"):  # as if installed
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
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
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

    def calls(self) -> list[list[str]]:
        """Words of the calls of the stand-ins so far."""
        if not self.calls_file.exists():
            return []
        return [line.split("\0")[:-1] for line in self.calls_file.read_text().split("\n")[:-1]]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def wait_for(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_parses(script):
    subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_is_content():
    paths = [f"launch/{name}" for name in SCRIPTS]
    result = subprocess.run(["shellcheck", "-x", *paths], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout


# cifar10.sh


@pytest.mark.parametrize("small", [(), ("--small",)])
def test_cifar10_names_configs_settings_and_checkpoints_that_are_there(place, small):
    out, _ = place.run("cifar10.sh", *small, "--dry-run", "--", "--config.data.data_dir=my data")
    shown = [shlex.split(line) for line in out.splitlines()]
    commands = [words[2:] for words in shown if words[:3] == ["python", "-m", "sg_jax.main"]]
    modes = []
    for words in commands:
        values = flags.FlagValues()
        flags.DEFINE_string("workdir", "", "", flag_values=values)
        flags.DEFINE_string("mode", "", "", flag_values=values)
        absolute = [w.replace("configs/", f"{ROOT}/configs/") for w in words]
        given = config.parse(absolute, values)
        side = given.data.image_size or 32
        experiment.build(network.complete(given, (side, side, 3), 10), jax.devices()[:1])
        assert given.data.data_dir == "my data"
        assert given.evaluate.step % given.checkpoint.keep_period == 0
        assert given.evaluate.step < given.train.steps
        modes.append(values["mode"].value)
    assert set(modes) == {"train", "evaluate", "sweep", "diversity"} and modes[:3] == ["train"] * 3
    workdirs = [words[words.index("--workdir") + 1] for words in commands[:3]]
    assert shown[-1][:3] == ["python", "-m", "sg_jax.evaluation.compare"]
    assert shown[-1][3:6] == workdirs and place.calls() == []


def test_cifar10_runs_some_networks_elsewhere(place):
    arguments = ("--networks=routing masking", "--runs=/data/r", "--small", "--dry-run")
    out, _ = place.run("cifar10.sh", *arguments)
    assert "--workdir /data/r/small_masking" in out and "small_dense" not in out
    _, err = place.run("cifar10.sh", "--networks=sparse", "--dry-run", status=2)
    assert "--networks sparse must be" in err


# keep_running.sh


def keep_running(place, command: str, **environment: str) -> subprocess.Popen:
    return place.popen("keep_running.sh", "bash", "-c", f"echo x >>times; {command}", **environment)


def times(place) -> int:
    path = place.home / "times"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize(
    ("command", "environment", "status", "runs"),
    [
        ('[ "$(wc -l <times)" -eq 3 ]', {}, 0, 3),  # fails twice
        ("exit 2", {}, 2, 1),
        ("exit 7", {"MAX_FAILURES": "2"}, 7, 3),
        # A run that lasted long enough does not count as a failure in a row.
        ('[ "$(wc -l <times)" -eq 5 ]', {"MAX_FAILURES": "1", "HEALTHY_SECONDS": "0"}, 0, 5),
    ],
)
def test_keep_running(place, command, environment, status, runs):
    process = keep_running(place, command, **environment)
    process.communicate(timeout=20)
    assert (process.returncode, times(place)) == (status, runs)


def test_keep_running_passes_sigterm_on_once_and_waits(place):
    process = keep_running(
        place,
        "trap 'echo TERM >>got' TERM; echo >ready; while [ ! -e got ]; do sleep 0.02; done;"
        " sleep 0.3; exit 1",
    )
    wait_for((place.home / "ready").exists)
    process.send_signal(signal.SIGTERM)
    wait_for((place.home / "got").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 1 and times(place) == 1
    assert (place.home / "got").read_text() == "TERM\n"


def test_keep_running_ends_in_the_pause(place):
    process = keep_running(place, "exit 9", PAUSE_SECONDS="60")
    wait_for(lambda: times(place))
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 9 and times(place) == 1


def test_keep_running_lets_the_command_end_after_sigusr1(place):
    process = keep_running(place, "echo >ready; while [ ! -e go ]; do sleep 0.02; done; exit 1")
    wait_for((place.home / "ready").exists)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert process.poll() is None
    (place.home / "go").touch()
    process.communicate(timeout=20)
    assert process.returncode == 1 and times(place) == 1


# local.sh


UNTIL_SIGNAL = """import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, _: got.append(n))
print("ready", flush=True)
while not got:
    time.sleep(0.02)
time.sleep(0.3)
print("saved after", len(got))
sys.exit(1)
"""


def local_log(place, index: int) -> str:
    path = place.repository / f"runs/logs/process_{index}.log"
    return path.read_text() if path.exists() else ""


def test_local_starts_every_process(place):
    out, _ = place.run("local.sh", "--processes=3", "--devices=4", "--", *MAIN, BEHAVIOUR="exit 0")
    shown = [out, local_log(place, 1), local_log(place, 2)]
    words = [text.splitlines()[0].split() for text in shown]
    assert [w[:4] for w in words] == [["process", str(i), "of", "3"] for i in range(3)]
    assert len({w[5] for w in words}) == 1 and words[0][5].startswith("localhost:")
    assert all(w[6] == "--xla_force_host_platform_device_count=4" for w in words)
    given = "".join(f"<{word}>" for word in ["-m", "sg_jax.main", *MAIN])
    assert [text.splitlines()[1] for text in shown] == [given] * 3


def test_local_ends_all_when_one_fails(place):
    behaviour = 'if [ "$JAX_PROCESS_ID" = 1 ]; then sleep 0.3; exit 7; fi; until_term'
    out, err = place.run("local.sh", "--", *MAIN, BEHAVIOUR=behaviour, status=7)
    assert out.endswith("ready\nsaved after 1\n")
    assert "process 1 ended with status 7" in err


def test_local_kills_what_does_not_end(place):
    behaviour = '[ "$JAX_PROCESS_ID" = 0 ] || exit 7; trap "" TERM; while :; do sleep 0.1; done'
    place.run("local.sh", "--grace=0", "--", *MAIN, BEHAVIOUR=behaviour, status=7)


def test_local_passes_sigterm_on_once_and_waits(place):
    process = place.popen("local.sh", "--", *MAIN, BEHAVIOUR="until_term")
    wait_for(lambda: "ready" in local_log(place, 1))
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out.endswith("saved after 1\n") and local_log(place, 1).endswith("saved after 1\n")


def test_local_passes_control_c_on_once(place):
    """The terminal signals all processes in its foreground: only local.sh may be one of them."""
    program = place.home / "until_signal.py"  # unlike bash, Python can handle an ignored SIGINT
    program.write_text(UNTIL_SIGNAL)
    behaviour = f"exec {sys.executable} {program}"
    process, terminal = place.on_terminal("local.sh", "--", *MAIN, BEHAVIOUR=behaviour)
    wait_for(lambda: "ready" in local_log(place, 1))
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    assert process.wait(timeout=20) == 1
    assert local_log(place, 1).endswith("ready\nsaved after 1\n")
    assert b"saved after 1" in os.read(terminal, 10_000)


# What each verb would do, and that it does nothing


def dry(place, script: str, *arguments: str) -> str:
    out, _ = place.run(script, *arguments, "--dry-run", *RUN)
    assert place.calls() == [] and not (place.repository / "build").exists()
    return out


ON_WORKERS = "--worker=all '--command="
MAIN_ON_WORKERS = "bash launch/tpu_worker.sh --config configs/digits.py"
PLAN = {
    "tpu_vm.sh": {
        "create": ["tpu-vm create n --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite"],
        "run": [
            "tar -czf",
            "tpu-vm scp build/sg_jax.tgz n:sg_jax.tgz",
            ON_WORKERS,
            MAIN_ON_WORKERS,
        ],
        "resume": ["tpu-vm describe n", "start n", "delete n", "create n", MAIN_ON_WORKERS],
        "logs": ["tpu-vm ssh n --worker=0", "journalctl --unit sg_jax"],
        "status": ["tpu-vm describe n", "systemctl status sg_jax"],
        "ssh": ["tpu-vm ssh n --project=p --zone=z\n"],
        "stop": ["sudo systemctl disable --now sg_jax"],
        "delete": ["tpu-vm delete n --quiet --project=p --zone=z\n"],
    },
    "tpu_pod.sh": {
        "create": [
            "queued-resources create n --node-id=n --accelerator-type=v5litepod-16"
            " --runtime-version=v2-alpha-tpuv5-lite --async --project=p --zone=z\n"
        ],
        "run": [
            "'--format=value(state.state)'",
            "scp build/sg_jax.tgz",
            ON_WORKERS,
            MAIN_ON_WORKERS,
        ],
        "resume": [
            "describe n",
            "delete n --force --quiet",
            "create n",
            ON_WORKERS,
            MAIN_ON_WORKERS,
        ],
        "watch": ["describe n", "delete n --force --quiet", "create n", MAIN_ON_WORKERS],
        "logs": ["queued-resources ssh n --worker=0", "journalctl --unit sg_jax"],
        "status": ["queued-resources describe n", ON_WORKERS + "systemctl status sg_jax"],
        "ssh": ["queued-resources ssh n --project=p --zone=z\n"],
        "stop": [ON_WORKERS + "sudo systemctl disable --now sg_jax"],
        "delete": ["queued-resources delete n --force --quiet --project=p --zone=z\n"],
    },
    "gke.sh": {
        "create": [
            "clusters get-credentials c",
            "jobset/releases",
            "node-pools create n-0",
            "create n-1",
        ],
        "image": [
            "docker build --platform linux/amd64 --file launch/Dockerfile --tag i .",
            "push i",
        ],
        "run": [
            "docker push i",
            "delete jobset n",
            "kind: JobSet",
            "apply --filename build/n.yaml",
        ],
        "resume": ["delete jobset n", '"sg_jax.main", "--config"', "apply --filename build/n.yaml"],
        "logs": ["kubectl --context=gke_p_l_c logs --selector", "job-completion-index=0"],
        "status": ["get jobset n", "get pods", "node-pools list"],
        "stop": [
            "kubectl --context=gke_p_l_c delete jobset n --ignore-not-found --cascade=foreground"
        ],
        "delete": ["delete jobset n", "node-pools delete n-0 --quiet", "node-pools delete n-1"],
    },
    "slurm.sh": {
        "run": [
            "sbatch --job-name=n --dependency=singleton --nodes=1 --ntasks-per-node=8",
            "'--note=it",
        ],
        "resume": [
            "--requeue --signal=B:USR1@300",
            "launch/slurm_job.sh runs/slurm/n --config configs",
        ],
        "logs": ["tail --lines=200 runs/slurm/n-0.log"],
        "status": ["squeue --name=n"],
        "cancel": ["--state=PENDING", "--state=RUNNING --batch --signal=TERM"],
    },
}


@pytest.mark.parametrize("script", PLAN)
def test_dry_run_prints_everything_and_runs_nothing(place, script):
    flags = {"gke.sh": GKE, "slurm.sh": []}.get(script, ZONE)
    for verb, pieces in PLAN[script].items():
        out = dry(place, script, verb, "--name=n", *flags)
        where = [out.find(piece) for piece in pieces]
        assert -1 not in where and where == sorted(where), (verb, out)
    help_text, _ = place.run(script, "--help")
    verbs = help_text.split("Verbs:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in verbs.splitlines()] == list(PLAN[script])


def test_dry_run_of_local(place):
    out, _ = place.run("local.sh", "--processes=2", "--devices=3", "--dry-run", "--", *MAIN)
    assert place.calls() == [] and not (place.repository / "runs").exists()
    lines = [shlex.split(line) for line in out.splitlines() if line.startswith("env ")]
    assert [line[3] for line in lines] == ["JAX_PROCESS_ID=0", "JAX_PROCESS_ID=1"]
    assert all(line[-len(MAIN) :] == MAIN and "JAX_PLATFORMS=cpu" in line for line in lines)


@pytest.mark.parametrize(
    ("flags", "runtime"),
    [(["--spot"], "v2-alpha-tpuv5-lite"), (["--accelerator-type=v6e-16"], "v2-alpha-tpuv6e")],
)
def test_pod_options(place, flags, runtime):
    out = dry(place, "tpu_pod.sh", "create", *ZONE, *flags)
    assert f"--runtime-version={runtime} " in out
    assert ("--spot" in out) == ("--spot" in flags)


# What they do


def test_vm_run_brings_code_and_command(place):
    """From the checkout to the words that python gets there, through gcloud, ssh and systemd."""
    (place.repository / "new.py").write_text("uncommitted")
    (place.repository / "gone.py").touch()
    subprocess.run(["git", "add", "gone.py"], cwd=place.repository, check=True)
    (place.repository / "gone.py").unlink()
    place.run("tpu_vm.sh", "run", *ZONE, "--workdir=runs/a", "--", *MAIN)
    calls = place.calls()
    assert [c[4] for c in calls if c[0] == "gcloud"] == ["scp", "ssh"]
    assert [c[1:] for c in calls if c[:2] == ["sudo", "systemctl"]] == [
        ["systemctl", "stop", "sg_jax"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--quiet", "sg_jax"],
        ["systemctl", "restart", "sg_jax"],
    ]
    worker = place.home / "sg_jax"
    assert (worker / "new.py").exists() and not (worker / ".git").exists()
    unit = (place.home / "sg_jax.service").read_text()
    assert f"WorkingDirectory={worker}\n" in unit
    assert f"ExecStart=/bin/bash {worker}/.command.sh\n" in unit
    place.command(worker / ".venv/bin/python", PYTHON)
    result = subprocess.run(
        ["bash", ".command.sh"], cwd=worker, env=place.environment, text=True, capture_output=True
    )
    given = ["-m", "sg_jax.main", *MAIN, "--workdir=runs/a"]
    assert result.stdout.splitlines()[1] == "".join(f"<{word}>" for word in given), result.stderr


def gcloud_verbs(place) -> list[str]:
    return [c[4] for c in place.calls() if c[0] == "gcloud"]


@pytest.mark.parametrize(
    ("states", "verbs"),
    [
        (["READY"], ["describe"]),
        (["STOPPED", "STARTING", "READY"], ["describe", "start", "describe", "describe"]),
        (["MISSING", "READY"], ["describe", "create", "describe"]),
        (["PREEMPTED", "READY"], ["describe", "delete", "create", "describe"]),
    ],
)
def test_vm_resume(place, states, verbs):
    place.run("tpu_vm.sh", "resume", *ZONE, *RUN, states=states)
    assert gcloud_verbs(place) == [*verbs, "scp", "ssh"]


@pytest.mark.parametrize(
    ("states", "verbs"),
    [
        (["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], ["describe"] * 3),
        (
            ["SUSPENDING", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"],
            ["describe", "describe", "delete", "create", "describe", "describe"],
        ),
        (["MISSING", "ACTIVE"], ["describe", "create", "describe"]),
        (["FAILED", "ACTIVE"], ["describe", "delete", "create", "describe"]),
    ],
)
def test_pod_resume(place, states, verbs):
    place.run("tpu_pod.sh", "resume", *ZONE, *RUN, states=states)
    assert gcloud_verbs(place) == [*verbs, "scp", "ssh"]
    commands = [c for c in place.calls() if c[0] == "gcloud" and c[4] in ("scp", "ssh")]
    assert all("--worker=all" in c for c in commands)


def test_pod_run_waits_and_gives_up_where_there_is_nothing_to_wait_for(place):
    place.run("tpu_pod.sh", "run", *ZONE, *RUN, states=["ACCEPTED", "ACTIVE"])
    assert gcloud_verbs(place) == ["describe", "describe", "scp", "ssh"]
    _, err = place.run("tpu_pod.sh", "run", *ZONE, *RUN, states=["SUSPENDED"], status=2)
    assert "resume" in err
    place.run("tpu_pod.sh", "resume", *ZONE, *RUN, states=["FAILED", "FAILED"], status=2)


def test_pod_watch_resumes_until_the_run_ends(place):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE", "ACTIVE"]
    place.run("tpu_pod.sh", "watch", *ZONE, *RUN, states=states, ACTIVE="inactive")
    again = ["describe", "describe", "delete", "create", "describe", "scp", "ssh"]
    assert gcloud_verbs(place) == ["describe", "scp", "ssh", *again, "describe", "ssh"]
    place.run("tpu_pod.sh", "watch", *ZONE, *RUN, states=["ACTIVE"] * 2, status=1, ACTIVE="failed")


def test_pod_watch_tries_again_where_gcloud_fails(place):
    states = ["BROKEN", "ACTIVE", "BROKEN", "ACTIVE"]
    place.run("tpu_pod.sh", "watch", *ZONE, *RUN, states=states, ACTIVE="inactive")
    assert gcloud_verbs(place) == ["describe"] * 2 + ["scp", "ssh"] + ["describe"] * 2 + ["ssh"]


def test_gke_applies_a_manifest_that_says_what_was_asked_for(place):
    yaml = pytest.importorskip("yaml")
    flags = ["--tpu=v6e", "--topology=4x8", "--slices=3", "--max-restarts=5"]
    strange = 'a "b" \\ $(c) & @CHIPS@'
    place.run("gke.sh", "run", "--name=n", *GKE, *flags, *RUN, strange)
    assert [c[0] for c in place.calls()] == ["docker", "docker", "kubectl", "kubectl"]
    jobset = yaml.safe_load((place.repository / "build/n.yaml").read_text())
    assert jobset["metadata"]["name"] == "n"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (3, 8, 8)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    (container,) = pod["containers"]
    command = ["python", "-m", "sg_jax.main", *MAIN, strange, "--workdir=gs://bucket/run"]
    assert container["command"] == [word.replace("$(", "$$(") for word in command]
    assert (container["image"], container["resources"]["limits"]) == ("i", {"google.com/tpu": 4})
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [2]


def test_gke_refuses_what_a_manifest_cannot_hold(place):
    _, err = place.run("gke.sh", "run", *GKE, *RUN, "--note=a\tb", status=2)
    assert "line break" in err and place.calls() == []


def test_slurm_run_and_cancel(place):
    place.run("slurm.sh", "run", "--nodes=2", "--gpus=4", "--time=9:00", *RUN)
    (call,) = place.calls()
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=9:00"} < set(call)
    after = call.index("launch/slurm_job.sh")
    assert call[after + 2 :] == [*MAIN, "--workdir=gs://bucket/run"]
    place.run("slurm.sh", "cancel")
    assert [c[0] for c in place.calls()] == ["sbatch", "scancel", "scancel"]


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_job_saves_once(place, number, requeued):
    """`scancel --signal=TERM` reaches the processes; here the stand-in of srun waits for it."""
    place.command(place.bin / "srun", FAKE + "until [ -e told ]; do sleep 0.02; done; exit 1\n")
    place.command(place.bin / "scancel", FAKE + "touch told\n")
    process = place.popen("slurm_job.sh", "logs/n", *MAIN, SLURM_JOB_ID="7")
    wait_for(place.calls)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1, err
    srun, scancel, *rest = place.calls()
    assert srun[srun.index("python") :] == ["python", "-u", "-m", "sg_jax.main", *MAIN]
    assert scancel == ["scancel", "--signal=TERM", "7"]
    assert rest == ([["scontrol", "requeue", "7"]] if requeued else [])


# Errors


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("tpu_vm.sh", ["create", "delete"]),  # no verb
        ("tpu_vm.sh fly", ["'fly'", "create"]),
        ("tpu_vm.sh create --zone=z", ["--project", "variable PROJECT", "Google Cloud project"]),
        ("tpu_pod.sh create --project=p", ["--zone", "variable ZONE", "us-central1-a"]),
        ("tpu_vm.sh create --speed=9", ["'--speed=9'", "--zone"]),
        ("tpu_vm.sh create --zone", ["--zone needs a value"]),
        ("tpu_vm.sh create --project=p --zone=z --accelerator-type=v6e-16", ["tpu_pod.sh"]),
        ("tpu_vm.sh create --project=p --zone=z --accelerator-type=v9-8", ["--runtime-version"]),
        ("tpu_vm.sh run --project=p --zone=z", ["--config"]),
        ("tpu_vm.sh run --project=p --zone=z -- --config=x", ["--workdir"]),
        ("tpu_pod.sh run --project=p --zone=z -- --workdir runs/a", ["runs/a", "gs://BUCKET"]),
        (
            "tpu_pod.sh run --project=p --zone=z --workdir gs://a -- --workdir=gs://b",
            ["two folders"],
        ),
        ("gke.sh run --project=p --cluster=c --location=l -- --x", ["--image", "variable IMAGE"]),
        ("gke.sh stop --project=p --cluster=c --location=l --topology=2x3", ["2x3", "4"]),
        ("slurm.sh run --workdir /tmp/a -- --config x", ["/tmp/a", "all nodes"]),
        ("slurm.sh run --gpus=all -- --config x", ["--gpus all", "positive number"]),
        ("local.sh --processes 0 -- --config x", ["--processes 0"]),
        ("local.sh", ["--config"]),
    ],
)
def test_errors_say_what_to_do(place, command, words):
    _, err = place.run(*command.split(), status=2)
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert not [word for word in words if word not in err], err
    assert place.calls() == []


def test_environment_variables_are_defaults_and_flags_win(place):
    variables = dict(PROJECT="q", ZONE="y", NAME="m", SPOT="yes")
    out, _ = place.run("tpu_vm.sh", "create", "--dry-run", "--zone=z", **variables)
    assert out.rstrip().endswith("--spot --project=q --zone=z") and " create m " in out


def test_vm_resume_says_when_the_folder_is_gone(place):
    flags = [*ZONE, "--workdir=runs/a", "--", *MAIN]
    _, err = place.run("tpu_vm.sh", "resume", *flags, states=["PREEMPTED"], status=2)
    assert "runs/a was on its disk" in err and gcloud_verbs(place) == ["describe"]
