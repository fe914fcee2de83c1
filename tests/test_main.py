"""The command line as a user types it: the whole path on tiny settings, and bad input."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import compiling
import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = (
    "--config.model.depth=3", "--config.model.width=16", "--config.model.heads=2",
    "--config.model.patch=2", "--config.model.routes=((1,1),)", "--config.train.batch_size=8",
    "--config.train.log_every=2", "--config.train.sample_every=0", "--config.checkpoint.every=2",
    "--config.checkpoint.keep=3", "--config.sample.steps=2", "--config.sample.count=20",
    "--config.sample.batch_size=24", "--config.evaluate.samples=20", "--config.features.epochs=2",
)  # fmt: skip


SHORT = ("--config.train.steps=2", "--config.train.then=()")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def call(data_dir):
    """Run the command in a process of its own, on one device."""

    def run(*arguments, **options):
        return subprocess.run(
            command(data_dir, *arguments), **options, capture_output=True, text=True, cwd=ROOT,
            env=environment(data_dir), timeout=300,
        )  # fmt: skip

    return run


def command(data_dir, *arguments):
    given = ("--config", "configs/digits.py", f"--config.data.data_dir={data_dir}", *TINY)
    return [sys.executable, "-m", "sg_jax.main", *given, *arguments]


def environment(data_dir):
    """One device; programs are compiled once for all the processes of a test run."""
    return {
        **os.environ,
        "XLA_FLAGS": compiling.FAST,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(data_dir / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def arrays(workdir, step):
    """Return every array of a checkpoint's parts, by part and name."""
    from orbax.checkpoint import v1 as ocp

    folder = workdir.absolute() / "checkpoints" / str(step)
    loaded = ocp.load_checkpointables(folder)
    assert set(loaded) >= {"model", "ema", "opt_state"}
    return {
        f"{part}/{name}": np.asarray(value)
        for part in ("model", "ema", "opt_state")
        for name, value in loaded[part].items()
    }


def test_training_ends_with_pictures_and_a_report(call, tmp_path):
    workdir = tmp_path / "run"
    settings = ("--config.evaluate.guidance=unguided,sg", "--config.train.steps=4")
    cheap = (  # to compile
        "--config.model.depth=2", "--config.optimizer.name=adamw", "--config.features.width=8",
    )  # fmt: skip
    done = call("--workdir", str(workdir), *settings, *cheap)
    assert done.returncode == 0, done.stderr
    assert f"Written: {workdir / 'guidance.png'}" in done.stdout
    (drawn,) = (workdir / "samples").glob("sg_w1.5_2steps_seed0_*.npz")
    pictures = ("guidance.png", "loss.png", drawn.with_suffix(".png"))
    for name in (*pictures, "report.html", "report.json"):
        assert (workdir / name).stat().st_size > 500
    assert {r["name"] for r in json.loads((workdir / "report.json").read_text())} == {
        "unguided", "sg"
    }  # fmt: skip
    assert "http" not in (workdir / "report.html").read_text().split("</style>")[1].split("<h2")[0]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4]
    assert list((workdir / "tensorboard").glob("events.*"))
    with np.load(drawn) as drawn:
        assert drawn["images"].shape == (20, 8, 8, 1) and drawn["images"].dtype == np.uint8
        np.testing.assert_array_equal(drawn["labels"], np.arange(20) % 10)
        images = drawn["images"]

    import sg_jax

    model = sg_jax.load(workdir)
    again = sg_jax.sample(model, [0, 1, 2], guidance=sg_jax.Guidance(1.75, 0.0, 0.75), steps=2)
    assert np.abs(again.astype(int) - images[:3]).max() <= 1


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(call, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for workdir, steps in ((whole, 6), (parts, 3), (parts, 6)):
        done = call(
            "--workdir", str(workdir), f"--config.train.steps={steps}", "--config.train.then=()",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "Continue" in done.stdout and "from step 3" in done.stdout
    expected, found = arrays(whole, 6), arrays(parts, 6)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    third = json.loads((parts / "metrics.jsonl").read_text().splitlines()[-1])
    assert third["step"] == 6


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_continues(call, data_dir, tmp_path):
    workdir = tmp_path / "run"
    arguments = (
        "--workdir",
        str(workdir),
        "--config.train.then=()",
        "--config.checkpoint.every=10000",
    )
    long = command(data_dir, *arguments, "--config.train.steps=1000000")
    process = subprocess.Popen(long, cwd=ROOT, env=environment(data_dir), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "saved" in error
    step = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    done = call(*arguments, f"--config.train.steps={step + 2}")
    assert f"from step {step}" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_jax_is_imported_ends_the_command(data_dir, number):
    process = subprocess.Popen(command(data_dir, "--workdir=none"), cwd=ROOT, text=True,
                               stderr=subprocess.PIPE, env=environment(data_dir))  # fmt: skip
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:  # handled from its first lines on
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error.splitlines() == [
        f"Stopped by {number.name}. All complete work is kept; repeat the command for the rest."
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "mode, words", [("sample", "Draw"), ("evaluate", "feature network"), ("data", "Compiling")]
)
def test_a_signal_ends_a_mode(call, data_dir, tmp_path, mode, words, number):
    assert not call("--workdir", str(tmp_path), *SHORT).returncode
    long = ("--config.sample.count=9999", "--config.features.epochs=999", f"--mode={mode}")
    process = subprocess.Popen(
        command(data_dir, "--workdir", str(tmp_path), *SHORT, *long), cwd=ROOT, text=True,
        env=environment(data_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while words not in process.stdout.readline():
        pass
    time.sleep(1)
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1].startswith(f"Stopped by {number.name}.")
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1e6", "3e38"])
def test_training_that_diverges_fails_and_keeps_good_checkpoints(call, tmp_path, rate):
    good = ("--config.optimizer.warmup=0", *SHORT)
    assert not call("--workdir", str(tmp_path), *good).returncode
    bad = (f"--config.optimizer.learning_rate={rate}", "--config.train.steps=40")
    done = call("--workdir", str(tmp_path), *good, *bad, "--config.checkpoint.every=1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(r"Error: After step 3 the weights are out of bounds, first \S+ ", done.stderr)
    assert "The checkpoint of step 2 is from before that, and sound." in done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.routes=((1,7),)"], ["routes", "(1, 7)", "depth=3"]),
        (["--config.guidance.sg.gamma_weak=1.5"], ["config.guidance.sg.gamma_weak=1.5", "[0, 1]"]),
        (["--config.sample.guidance=sgg"], ["config.sample.guidance='sgg'", "'sg'"]),
        (["--config.model.size=XXL/2"], ["config.model.size='XXL/2'", "'XL/2'"]),
        (["--config.sample.labels=(3,10)"], ["config.sample.labels[1]=10", "[0, 9]"]),
        (["--config.model.patch=3"], ["config.model.patch=3", "8"]),
        (["--config.train.on_divergence=halt"], ["on_divergence='halt'", "'skip', 'rollback'"]),
        (["--config.train.stepz=3"], ["config.train", "'stepz'", "'steps'"]),
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["--mode=trian"], ["trian", "train"]),
        (["--mode=sample"], ["does not exist"]),
        (["--config.model.routes=()"], ["config.objective.gamma=0.25", "config.model.routes"]),
        (["--config.model.size=S/2"], ["has depth 12", "config.model.depth=3"]),
        (["--config.train.init_from=runs/no"], ["init_from='runs/no'", "is neither a run nor"]),
        (["--config.evaluate.references=3"], ["config.evaluate.references=3", "at least 4"]),
        (["--config.train.gammas=(('a',0.5),)"], ["config.train.gammas", "pairs"]),
        (["--config.diversity.guidance=foo"], ["config.diversity.guidance='foo'"]),
        (
            ["--config.evaluate.guidance=ag", "--config.checkpoint.keep_period=0"],
            ["config.guidance.ag.weak_step=0.33", "keeps", "checkpoint.keep_period=330"],
        ),
        (["--config.data.test_split=tset"], ["'tset'", "not a split", "mean 'test'"]),
        (["--config.features.path=/proc/x.npz"], ["config.features.path='/proc/x.npz'", "/proc"]),
        (["--config.sweep.scale=()"], ["config.sweep.scale=()", "one or more different numbers"]),
        (["--config.sampler.churn=2"], ["config.sampler.churn=2.0", "'euler' does not read it"]),
        (["--config.model.state=4"], ["config.model.state=4", "'dit' does not read it"]),
    ],
)
def test_bad_input_is_one_paragraph_before_anything_is_written(
    tmp_path, data_dir, arguments, words
):
    from sg_jax.errors import UserError
    from sg_jax.main import main

    workdir = tmp_path / "run"
    given = [*command(data_dir, "--workdir", str(workdir))[2:], *arguments]
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        main(given)
    assert time.monotonic() - began < 60
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert not workdir.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, data_dir):
    from sg_jax.errors import UserError
    from sg_jax.main import main

    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--workdir=.*file/run cannot be written"):
        main(command(data_dir, "--workdir", str(tmp_path / "file" / "run"))[2:])


def test_help_names_every_mode_and_flag(capsys):
    from sg_jax import main

    main.main(["main", "--help"])
    text = capsys.readouterr().out
    flags = ("--config", "--workdir", "--mode", "--dry-run", "--topology", "--for", "--json")
    assert all(f"    {mode} " in text for mode in main.MODES) and all(f in text for f in flags)


def test_help_prints_the_keys_of_a_section(capsys):
    from sg_jax import main

    main.main(["main", "--help", "config"])
    assert "  train " in capsys.readouterr().out
    main.main(["main", "--help", "config.optimizer"])
    text = capsys.readouterr().out
    assert "learning_rate=0.0001" in text and "'constant', 'cosine'" in text and "fixed" in text
    with pytest.raises(main.UserError, match=r"no section config\.trian.*mean 'train'"):
        main.main(["main", "--help", "config.trian"])


def test_help_explains_a_mode_and_a_key(capsys):
    from sg_jax import main

    main.main(["main", "--help", "sample"])
    text = capsys.readouterr().out
    assert "--prompts" in text and "config.sample: " in text and "--join" not in text
    main.main(["main", "--config", "x.py", "--help", "train.steps"])
    text = capsys.readouterr().out
    assert "steps=1000" in text and "batch_size" not in text
    with pytest.raises(main.UserError, match=r"no section config\.smaple.*mean 'sample'"):
        main.main(["main", "--help", "smaple"])


def test_a_mode_from_outside_is_listed_and_run(capsys, monkeypatch, tmp_path):
    from sg_jax import main
    from sg_jax.modes import base

    def run(job):
        return [f"{job.workdir}/{job.options['words'][1]}", job.experiment.config.seed]

    words = base.Option("words", "what to say", many=True)
    mode = base.Mode("hello", "say hello", run, data=False, options=(words,))
    monkeypatch.setitem(base.MODES, "hello", mode)
    main.main(["main", "--help"])
    assert "hello      say hello\n      --words" in capsys.readouterr().out
    config = f"--config={ROOT}/configs/imagenet256_sit_s2_routing.py"
    given = ["main", "--mode", "hello", config, "--words", "a", "b", "--workdir", str(tmp_path)]
    main.main([*given, "--config.seed=5"])
    assert f"Written: {tmp_path}/b\nWritten: 5\n" in capsys.readouterr().out
    with pytest.raises(main.UserError, match="--words is a flag of --mode=hello"):
        main.main(["main", config, "--words", "a"])


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), ["/run: no space is left", "Free some"]),
        (PermissionError(13, "Permission denied", "/a/b"), ["/a/b: permission is denied"]),
        (
            ValueError("RESOURCE_EXHAUSTED: Out of memory"),
            ["A device has run out of memory", "accumulate"],
        ),
        (MemoryError(), ["This machine has run out of memory"]),
    ],
)
def test_failures_of_the_system_end_in_a_sentence(monkeypatch, tmp_path, error, words):
    from sg_jax import main
    from sg_jax.modes import base
    from sg_jax.runs import failures

    def run(job):
        raise RuntimeError("a library failed") from error

    monkeypatch.setitem(base.MODES, "fail", base.Mode("fail", "fail", run, config=False))
    with pytest.raises(failures.Failure) as raised:
        main.main(["main", "--mode=fail", "--workdir", str(tmp_path / "run")])
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_dry_run_needs_no_data_where_the_shapes_are_known(capsys):
    from sg_jax.main import main

    main(["main", "--config", f"{ROOT}/configs/imagenet256_sit_s2_routing.py", "--dry-run"])
    assert "Parameters: 3" in capsys.readouterr().out


def test_latents_are_opened_to_know_what_decodes_them_unless_the_command_says_it(
    tmp_path, monkeypatch
):
    from sg_jax import main
    from sg_jax.config import parsing, record
    from sg_jax.data import latents
    from sg_jax.modes import base

    seen = []
    mode = base.Mode("ask", "ask", lambda job: seen.append(job.source) or [], recorded=True)
    monkeypatch.setitem(base.MODES, "ask", mode)
    latent = np.random.default_rng(0).standard_normal((2, 2, 4), np.float32)
    latents.write([(latent, 0)] * 2, str(tmp_path), "small", 2)
    config = parsing.merge({"data": {"name": "small", "data_dir": str(tmp_path)}})
    config.model.update(image_size=2, channels=4, num_classes=2, depth=1, width=8, heads=2, patch=1)
    record.write(tmp_path / "run", config, ("a", "b"), {"latents": True})
    given = ["main", "--mode=ask", f"--workdir={tmp_path / 'run'}"]
    named = [*given, "--config.autoencoder.path=some.npz"]
    main.main(given)
    main.main(named)  # the data set says which scale is right, and the record does not
    made = dict(name="some.npz", fingerprint="0123", scale=1.0, shift=0.0, factor=8)
    record.write(tmp_path / "run", config, ("a", "b"), {"latents": True, "autoencoder": made})
    main.main(named)
    (tmp_path / "small").rename(tmp_path / "away")
    main.main(given)
    assert [source and source.name for source in seen] == ["small", "small", None, None]


def test_the_process_fails_with_the_message_alone(call, tmp_path):
    done = call("--workdir", str(tmp_path / "run"), "--config.train.batch_size=0")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("Error: config.train.batch_size=0")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_goes_on_as_it_began_but_not_otherwise(call, data_dir, tmp_path):
    workdir = str(tmp_path / "run")
    first = call("--workdir", workdir, "--config.train.steps=2", "--config.train.then=()")
    assert first.returncode == 0
    done = call("--workdir", workdir, "--config.train.steps=1")
    assert done.returncode == 2 and "train.steps=1 is less than the 2 that" in done.stderr
    done = call("--workdir", workdir, "--config.objective.gamma=0.25")
    assert done.returncode == 2
    assert "config.objective.gamma=0.25" in done.stderr and "0.5" in done.stderr
    arguments = ("--workdir", workdir, "--mode=sample")  # its config is the run's
    done = subprocess.run(
        [sys.executable, "-m", "sg_jax.main", *arguments], cwd=ROOT, env=environment(data_dir),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Draw 20 images" in done.stdout


@pytest.mark.slow
def test_dry_run_prints_config_parameters_and_costs_and_writes_nothing(call, tmp_path):
    done = call("--workdir", str(tmp_path / "run"), "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("num_classes: 10", "Parameters: ", "training, γ 0.25, batch 8", "sg_flops ("):
        assert words in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bench_prints_time_ratios_beside_flops_ratios(call, tmp_path):
    done = call("--workdir", str(tmp_path / "bench"), "--mode=bench", "--config.bench.repeats=3")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench" / "bench.json").read_text())
    routed = next(r for r in rows if r["program"] == "train, γ 0.5")
    assert routed["compared_with"] == "train, γ 0" and 0 < routed["flops_ratio"] < 1
    assert all(r["time_ratio"] > 0 for r in rows)


def test_programs_are_kept_by_the_user_and_not_in_the_run_but_not_on_cpu(tmp_path, monkeypatch):
    from sg_jax import main

    before, run = jax.config.jax_compilation_cache_dir, tmp_path / "run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def kept(workdir=str(run)):
        jax.config.update("jax_compilation_cache_dir", None)
        main._keep_programs(workdir)
        return jax.config.jax_compilation_cache_dir

    try:
        assert kept() is None
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        assert kept("") is None
        folder = kept()
        assert pathlib.Path(folder).parent == tmp_path / "cache" / "sg_jax" and not run.exists()
        main._keep_programs(str(tmp_path / "other"))  # the first one given stays
        assert jax.config.jax_compilation_cache_dir == folder
        os.chmod(folder, 0o777)  # then anyone could have put a program there
        assert kept() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
