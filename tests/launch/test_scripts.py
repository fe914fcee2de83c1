"""All launch scripts: syntax, dry runs, errors."""

import re
import subprocess

import pytest
from stand_ins import GKE, ROOT, ZONE

SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_parses(script):
    subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)


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
            "launch/slurm_job.sh runs/slurm/n cuda --config configs",
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
        out = place.dry_run(script, verb, "--name=n", *flags)
        where = [out.find(piece) for piece in pieces]
        assert -1 not in where and where == sorted(where), (verb, out)
    help_text, _ = place.run(script, "--help")
    verbs = help_text.split("Verbs:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in verbs.splitlines()] == list(PLAN[script])


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
        ("slurm.sh run --extra=cuda11 -- --config x", ["--extra cuda11", "cuda12"]),
        ("local.sh --processes 0 -- --config x", ["--processes 0"]),
        ("local.sh", ["--config"]),
    ],
)
def test_errors_say_what_to_do(place, command, words):
    _, err = place.run(*command.split(), status=2)
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert not [word for word in words if word not in err], err
    assert place.calls() == []


NO_TABLES = {"BASH_FUNC_declare%%": "() { echo 'declare: -A: invalid option' >&2; return 2; }"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_bash_is_told_or_enough(place, script):
    """macOS has bash 3.2."""
    if "/common.sh" not in (ROOT / "launch" / script).read_text():
        assert "declare -A" not in (ROOT / "launch" / script).read_text() or script == "common.sh"
        return
    _, err = place.run(script, "--help", status=2, **NO_TABLES)
    assert f"and {script} needs bash 4 or later. On a Mac: brew install bash" in err
    assert err.startswith("Error: ") and err.count("\n") == 1 and place.calls() == []


def test_environment_variables_are_defaults_and_flags_win(place):
    variables = dict(PROJECT="q", ZONE="y", NAME="m", SPOT="yes")
    out, _ = place.run("tpu_vm.sh", "create", "--dry-run", "--zone=z", **variables)
    assert out.rstrip().endswith("--spot --project=q --zone=z") and " create m " in out


@pytest.mark.parametrize(
    "script", [name for name in SCRIPTS if name not in ("common.sh", "env.sh", "tpu_common.sh")]
)
def test_help_says_what_a_script_does_and_does_nothing(place, script):
    before = sorted(place.repository.rglob("*"))
    for flag in ("--help", "-h"):
        out, err = place.run(script, flag)
        assert f"launch/{script}" in out and "Usage: " in out and not err
        assert not out.startswith("#") and "set -e" not in out
    assert place.calls() == [] and sorted(place.repository.rglob("*")) == before


def test_the_quick_start_takes_only_a_folder(place):
    _, err = place.run("quickstart.sh", "--workdir=runs/a", status=2)
    assert "'--workdir=runs/a' is not a folder" in err
    assert not (place.repository / "runs").exists()


def test_the_checks_are_listed_once(place):
    """The hooks and the hosted workflow name checks of launch/check.sh, which knows no others."""
    _, err = place.run("check.sh", "speed", status=2)
    named = err.partition("use some of ")[2].rstrip(".\n").replace(" and ", ", ").split(", ")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"entry: bash launch/check\.sh (.*)", hooks)
    assert " ".join(entries).split() == named
    assert "launch/check.sh" in (ROOT / ".ci/run").read_text()
    assert "- run: bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_manual_names_the_file_of_a_function():
    found = re.findall(
        r"`(\w+)` is a function of `([\w.]+)`", (ROOT / "launch/README.md").read_text()
    )
    assert found
    for name, file in found:
        assert f"\n{name}() {{" in (ROOT / "launch" / file).read_text()
