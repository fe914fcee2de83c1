"""launch/tpu_vm.sh and tpu_pod.sh, through stand-ins for gcloud, ssh and systemd."""

import subprocess

import pytest
from stand_ins import MAIN, PYTHON, RUN, ZONE


@pytest.mark.parametrize(
    ("flags", "runtime"),
    [(["--spot"], "v2-alpha-tpuv5-lite"), (["--accelerator-type=v6e-16"], "v2-alpha-tpuv6e")],
)
def test_pod_options(place, flags, runtime):
    out = place.dry_run("tpu_pod.sh", "create", *ZONE, *flags)
    assert f"--runtime-version={runtime} " in out
    assert ("--spot" in out) == ("--spot" in flags)


def test_vm_run_brings_code_and_command(place):
    """From the checkout to the words that python gets there, through gcloud, ssh and systemd."""
    (place.repository / "new.py").write_text("uncommitted")
    (place.repository / "größe  2.py").touch()
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
    assert (worker / "größe  2.py").exists()
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


def test_vm_resume_says_when_the_folder_is_gone(place):
    flags = [*ZONE, "--workdir=runs/a", "--", *MAIN]
    _, err = place.run("tpu_vm.sh", "resume", *flags, states=["PREEMPTED"], status=2)
    assert "runs/a was on its disk" in err and gcloud_verbs(place) == ["describe"]
