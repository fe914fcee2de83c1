"""launch/slurm.sh and slurm_job.sh."""

import signal

import pytest
from stand_ins import FAKE, MAIN, RUN, wait_for


def test_slurm_run_and_cancel(place):
    place.run("slurm.sh", "run", "--nodes=2", "--gpus=4", "--time=9:00", *RUN)
    (call,) = place.calls()
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=9:00"} < set(call)
    after = call.index("launch/slurm_job.sh")
    assert call[after + 1 :] == ["runs/slurm/sg-jax", "cuda", *MAIN, "--workdir=gs://bucket/run"]
    place.run("slurm.sh", "run", "--extra=cuda12", *RUN)
    call = place.calls()[-1]
    assert call[call.index("launch/slurm_job.sh") + 2] == "cuda12"  # for an old driver
    place.run("slurm.sh", "cancel")
    assert [c[0] for c in place.calls()] == ["sbatch", "sbatch", "scancel", "scancel"]


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurm_job_saves_once(place, number, requeued):
    """`scancel --signal=TERM` reaches the processes; here the stand-in of srun waits for it."""
    place.command(place.bin / "srun", FAKE + "until [ -e told ]; do sleep 0.02; done; exit 1\n")
    place.command(place.bin / "scancel", FAKE + "touch told\n")
    process = place.popen("slurm_job.sh", "logs/n", "cuda12", *MAIN, SLURM_JOB_ID="7")
    wait_for(place.calls)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1, err
    srun, scancel, *rest = place.calls()
    assert srun[srun.index("python") :] == ["python", "-u", "-m", "sg_jax.main", *MAIN]
    assert scancel == ["scancel", "--signal=TERM", "7"]
    assert rest == ([["scontrol", "requeue", "7"]] if requeued else [])
