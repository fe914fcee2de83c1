"""The command that compares runs, in both spellings."""

import subprocess
import sys

import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import table
from sg_jax.main import main
from sg_jax.method.guidance import Guidance


@pytest.fixture
def runs(tmp_path):
    """Two runs of one setting each."""
    for name, distance in (("dense", 2.0), ("routing", 1.0)):
        key = table.Key(Guidance(), steps=40, samples=100, references=500, features="0badcafe")
        table.write(tmp_path / name, {key: dict(frechet=distance, gflops_per_step=0.1)})
    return [str(tmp_path / name) for name in ("dense", "routing")]


def test_a_report_is_written_and_its_files_are_named(runs, tmp_path, capsys):
    main(["sg_jax", "--mode", "compare", *runs, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for name in ("cost.png", "table.md", "report.html"):
        assert f"Written: {tmp_path / 'out' / name}" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"python -m sg_jax.main --mode compare {runs[0]} {runs[1]} --out" in page


def test_folders_in_the_home_and_with_brackets_in_their_names(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dense").rename(tmp_path / "lr[3e-3]*?")
    main(["sg_jax", "--mode", "compare", "~/lr[3e-3]*?", "~/routing", "--out", "~/o[u]t"])
    page = (tmp_path / "o[u]t" / "report.html").read_text(encoding="utf-8")
    assert "lr[3e-3]*?, routing side by side" in page


def test_wrong_arguments_are_named(runs):
    with pytest.raises(UserError, match="--out"):
        main(["sg_jax", "--mode", "compare", *runs])
    with pytest.raises(UserError, match="RUN"):
        main(["sg_jax", "--mode", "compare", "--out", "x"])


@pytest.mark.slow
def test_the_module_is_the_mode(runs, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sg_jax.evaluation.compare",
        *runs,
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "table.md").exists()
    done = subprocess.run(
        [*command[:3], str(tmp_path / "none"), *command[-2:]], capture_output=True, text=True
    )
    assert done.returncode == 2 and "has no scores.csv" in done.stderr
    assert "Traceback" not in done.stderr
