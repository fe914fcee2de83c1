"""Reports follow the sparsity rates of training: a row for each of them."""

import json
from types import SimpleNamespace

import jax
import pytest

from sg_jax.config import experiment, geometry, parsing, record
from sg_jax.costs.flops import sampling_step
from sg_jax.method.guidance import Guidance
from sg_jax.modes import aot, bench, dry_draw, flops
from sg_jax.modes.base import Job

TINY = dict(depth=1, width=8, heads=2, patch=4, routes=((0, 0),))


def completed(gammas, gamma=0.5):
    given = parsing.merge(
        dict(
            model=TINY,
            objective=dict(gamma=gamma),
            train=dict(batch_size=8, steps=10, gammas=gammas),
            sample=dict(batch_size=8, steps=2),
            evaluate=dict(guidance=("unguided",)),
            bench=dict(repeats=3),
            mesh=dict(data=1),
        )
    )
    return geometry.complete(given, (8, 8, 1), 10)


def built(*args):
    return experiment.build(completed(*args), jax.devices()[:1])


@pytest.mark.parametrize(
    ("gammas", "rates"),
    [
        ((), (0.5,)),
        (((5, 0.0),), (0.5, 0.0)),
        (((0, 0.25), (5, 0.75), (8, 0.25)), (0.25, 0.75)),  # step 1 is at 0.25 already
        (((9, 0.75), (10, 0.0)), (0.5, 0.75)),  # step 10 is the last, there is no step 11
    ],
)
def test_the_rates_of_training_in_their_order(gammas, rates):
    assert built(gammas).training_rates == rates


def test_flops_has_a_row_for_each_rate(capsys):
    flops.show(built(((5, 0.75),)))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training, γ")]
    assert [row.split(",")[1].strip() for row in rows] == ["γ 0", "γ 0.5", "γ 0.75"]
    costs = [float(row.split()[-1]) for row in rows]
    assert costs[0] > costs[1] > costs[2]


def test_the_network_of_another_run_is_counted_by_its_own_shapes(capsys, tmp_path, monkeypatch):
    """In each mode that counts; if that run is not there, it counts like the network itself."""
    small = completed(())
    record.write(tmp_path, small, list("0123456789"), {})
    config = small.copy_and_resolve_references().unlock()
    config.model.width, config.guidance.ag.weak_workdir = 16, str(tmp_path)
    config.guidance.ag_sg.weak_workdir, config.sample.guidance = "/nowhere", "ag"
    job = Job(config=config, said=record.flat(config).keys())
    job.__dict__["experiment"] = experiment.build(config, jax.devices()[:1])
    flops.run(job)
    said = capsys.readouterr().out
    costs = {row.split()[0]: float(row.split()[-1]) for row in said.splitlines() if "(ω" in row}
    own, weak = (sampling_step(each, Guidance(), full=True) for each in (
        job.experiment.model, geometry.abstract_model(small)
    ))  # fmt: skip
    assert costs["ag"] == pytest.approx((own + weak) / 1e9, rel=1e-4) and weak < own / 2
    assert costs["ag_sg"] > 1.5 * own / 1e9
    assert "ag_sg: the weak prediction is counted as by this network. workdir='/nowhere'" in said
    found = dry_draw.costs_of(job, {"ag": job.experiment.settings["ag"]})
    assert found["ag"] == pytest.approx(config.sample.steps * (own + weak))
    (program,) = aot._sampling(job.experiment, job)
    assert program.model_flops == pytest.approx(config.sample.batch_size * (own + weak))
    config.evaluate.guidance = ("ag",)
    timed = experiment.build(config, jax.devices()[:1])
    monkeypatch.setattr(bench, "training", lambda _, rates: rates)
    monkeypatch.setattr(bench, "init_state", lambda *_: SimpleNamespace(model=timed.model))
    monkeypatch.setattr(bench, "_sampling", lambda *arguments: arguments[-1])
    monkeypatch.setattr(bench, "_race", lambda programs, costs, *_: [programs, costs])
    *_, networks, costs = bench.measure(timed, flops.of_other_runs(job, timed.settings)[0])
    (label,) = (label for label in costs if label.startswith("sample, ag "))
    assert networks[label].width == 8
    assert costs[label] == pytest.approx(config.sample.batch_size * (own + weak))


@pytest.mark.slow
def test_bench_times_each_rate_and_says_what_it_does(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    job = Job(str(tmp_path))
    job.__dict__["experiment"] = built(((5, 0.75),), 0.0)  # on one device
    (path,) = bench.run(job)
    found = json.loads(path.read_text())
    names = [row["program"].split(" (")[0] for row in found]
    assert names[:2] == ["train, γ 0", "train, γ 0.75"]
    assert names[2:] == ["sample, cfg", "sample, unguided", "sample, sg_flops"]
    ratios = [row["flops_ratio"] for row in found[:2]]
    assert 1 == ratios[0] > ratios[1]
    lines = capsys.readouterr().out.splitlines()
    for start in ("Compiling train, γ 0 (1 of 2)", "Compiling train, γ 0.75 (2 of 2, ETA 0:"):
        assert sum(line.startswith(start) for line in lines) == 1
    assert sum(line.startswith("round 1/3") and " ETA " in line for line in lines) == 2
