"""The notebooks run from their first cell to their last, as a user's kernel would run them."""

import ast
import json
import os
import re
import sys

import nbformat
import numpy as np
import pytest
from image_files import picture, write
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from published import golden
from sklearn.datasets import load_digits
from stand_ins import ROOT

import sg_jax
from sg_jax.config import parsing
from sg_jax.data.sources import open_source

NAMES = ("digits", "latents", "prompts")
DIGITS, LATENTS, PROMPTS = (ROOT / "launch" / f"{name}.ipynb" for name in NAMES)
SMALL = (
    "--config.train.steps=4", "--config.train.sample_every=0", "--config.evaluate.samples=20",
    "--config.sample.steps=2", "--config.features.epochs=2", "--config.model.width=16",
)  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """A notebook and what to replace in it, as pairs of texts -> the outputs of its cells."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")

    def execute(path, *changes):
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        notebook = nbformat.reads(text, as_version=4)
        here = {"metadata": {"path": path.parent}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=here).execute()
        return [output for cell in notebook.cells for output in cell.get("outputs", ())]

    return execute


def pictures(outputs):
    return [output for output in outputs if "image/png" in output.get("data", {})]


def texts(outputs):
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("path", [DIGITS, LATENTS, PROMPTS], ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_its_flags_for_images_of_your_own_fit_a_folder_of_classes(tmp_path):
    cells = json.loads(DIGITS.read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[-1]["source"])
    flags, config = (
        ast.literal_eval(re.search(rf"`{name} = (.*?)`", text, re.DOTALL)[1])
        for name in ("FLAGS", "CONFIG")
    )
    name = write(tmp_path, {f"{c}/{i}.png": picture(i) for c in ("cat", "dog") for i in range(10)})
    data = parsing.parse([*flags, f"--config.data.name={name}"], str(ROOT / config)).data
    sizes = [len(open_source(name, s, image_size=4)) for s in (data.split, data.test_split)]
    assert sizes == [18, 2]


def test_it_trains_on_the_digits_that_are_not_kept_for_tests():
    counts = [
        int(re.search(rf"([\d,]+) {words}", path.read_text(encoding="utf-8"))[1].replace(",", ""))
        for path, words in ((DIGITS, "real images"), (ROOT / "README.md", "real test images"))
    ]
    of_class = np.bincount(load_digits().target)
    assert counts == [sum(of_class - of_class // 6), sum(of_class // 6)]


def test_prompts_are_drawn_as_their_config_says():
    config = parsing.parse([], str(ROOT / "configs" / "shapes_t2i.py"))
    text = PROMPTS.read_text(encoding="utf-8")
    assert f"STEPS = {config.sample.steps}\\n" in text
    assert f"sg_jax.Sampler(shift={config.sampler.shift})" in text


@pytest.mark.slow
def test_every_cell_runs(run, tmp_path):
    flags = [*SMALL, f"--config.data.data_dir={tmp_path / 'data'}"]
    outputs = run(
        DIGITS,
        ('RUNS = \\"runs\\"', f"RUNS = '{tmp_path}'"),
        ("FLAGS = []", f"FLAGS = {flags}"),
        ("samples=200", "samples=20"),
        ("steps=20", "steps=2"),
    )
    assert len(pictures(outputs)) == 4
    assert "GFLOPs" in texts(outputs)
    assert (tmp_path / "digits" / "sweep_frechet.png").is_file()


@pytest.fixture
def small_weights(tmp_path, make_dit):
    """What to replace so that the notebook of latents loads small random weights."""
    autoencoder, network = tmp_path / "sd-vae-ft-small.npz", tmp_path / "network.npz"
    np.savez(autoencoder, **golden("vae_sd_tiny")[1])
    model = make_dit(channels=4, learn_sigma=True)
    np.savez(network, **sg_jax.convert.to_state_dict(model, "sit"))
    return (
        ('AUTOENCODER = \\"stabilityai/sd-vae-ft-ema\\"', f"AUTOENCODER = '{autoencoder}'"),
        ('NETWORK = \\"facebook/DiT-XL-2-256\\"', f"NETWORK = '{network}'"),
        ('FAMILY = \\"\\"', "FAMILY = 'sit'"),
        ('ROUTE = \\"2-24\\"', "ROUTE = '1-2'"),
        ('LABELS = \\"207, 360, 387, 974\\"', "LABELS = '0, 3'"),
        ("STEPS = 20", "STEPS = 2"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("sliders", [False, True])
def test_latents_are_drawn_and_decoded(run, small_weights, sliders, tmp_path, monkeypatch):
    """With stand-ins for the sliders, or, as where ipywidgets is not installed, without them."""
    stand_in = tmp_path / "modules" / "ipywidgets.py"
    stand_in.parent.mkdir()
    stand_in.write_text(SLIDERS if sliders else "raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", f"{stand_in.parent}{os.pathsep}{os.pathsep.join(sys.path)}")
    outputs = run(LATENTS, *small_weights)
    shown = texts(outputs)
    assert "4 channels, factor 8, scale 0.18215" in shown
    assert "4 blocks of width 32, 16 tokens, routes ((1, 2),)" in shown
    assert len(pictures(outputs)) == 3 + sliders
    assert ("Draw: 1.75 0.0 0.9 4.0" if sliders else "no sliders without ipywidgets") in shown


@pytest.mark.slow
def test_prompts_are_drawn_and_steered(run, tmp_path, monkeypatch):
    """A network of two steps, and a stand-in for the sliders."""
    stand_in = tmp_path / "modules" / "ipywidgets.py"
    stand_in.parent.mkdir()
    stand_in.write_text(STEERED)
    monkeypatch.setenv("PYTHONPATH", f"{stand_in.parent}{os.pathsep}{os.pathsep.join(sys.path)}")
    flags = [
        f"--config.data.data_dir={tmp_path / 'data'}", "--config.train.steps=2",
        "--config.model.width=16", "--config.model.heads=2", "--config.optimizer.warmup=0",
    ]  # fmt: skip
    outputs = run(
        PROMPTS,
        ('RUNS = \\"runs\\"', f"RUNS = '{tmp_path}'"),
        ('\\"--config.train.steps=2400\\",', f"*{flags},"),
        ("LEARNING_STEPS = 100", "LEARNING_STEPS = 2"),
        ("STEPS = 20", "STEPS = 2"),
    )
    shown = texts(outputs)
    assert "size.npz" in shown and "a large {circle}" in shown
    assert (tmp_path / "shapes_short" / "size.npz").is_file()
    assert len(pictures(outputs)) == 4
    assert "Draw: square -0.5" in shown


def test_prompts_need_no_sliders(monkeypatch, capsys):
    cells = json.loads(PROMPTS.read_text(encoding="utf-8"))["cells"]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    exec("".join([c for c in cells if c["cell_type"] == "code"][-1]["source"]), {})
    assert "no sliders without ipywidgets" in capsys.readouterr().out


STEERED = """
def FloatSlider(value, min, max, step, description):
    assert min <= value <= max
    return value

class interact_manual:
    @staticmethod
    def options(manual_name):
        def click(function, size, subject, **values):
            print(f"{manual_name}: square -0.5")
            function(subject="square", size=-0.5, **values)
        return click
"""

SLIDERS = """
def FloatSlider(value, min, max, step, description):
    assert min <= value <= max
    return value

class interact_manual:
    @staticmethod
    def options(manual_name):
        def click(function, omega, gamma_strong, gamma_weak, omega_cfg):
            print(f"{manual_name}: {omega} {gamma_strong} 0.9 {omega_cfg}")
            function(omega, gamma_strong, 0.9, omega_cfg)
        return click
"""


@pytest.mark.slow
def test_nothing_is_downloaded_unless_it_is_asked_for(run):
    with pytest.raises(CellExecutionError, match=r"sd-vae-ft-ema is not on this machine: tick"):
        run(LATENTS)
