"""Composing: scales are chosen on some seeds and reported on others, and nothing is drawn twice."""

import contextlib
import csv
import dataclasses
import threading
import types

import numpy as np
import pytest
from PIL import Image

from sg_jax.config.measuring import Compose
from sg_jax.config.sections import Data, Evaluate, Model, Sample, Train
from sg_jax.data.shapes_scenes import Scene, Thing, draw
from sg_jax.data.wording import Wording
from sg_jax.errors import UserError
from sg_jax.evaluation import composing, prompts
from sg_jax.evaluation.table import Key
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.modes import compose
from sg_jax.programs.sampling import NotFinite
from sg_jax.runs.sharing import locked
from sg_jax.weights import checkpoints

PLACES = {"left of": (-8, 0), "right of": (8, 0), "above": (0, -8), "below": (0, 8)}
EVERY = {p.text: p for p in prompts.of_shapes()}


def drawn_as_asked(prompt):
    """Return an image that shows what a prompt asks for."""
    things = []
    for wanted in prompt.include:
        for n in range(wanted.count):
            across, down = PLACES[wanted.place[0]] if wanted.place else (0, 0)
            x = 16 + across if wanted.place else (9, 23, 9)[len(things)]
            y = 16 + down if wanted.place else (9, 9, 23)[n if wanted.count > 1 else 0]
            things.append(Thing(wanted.kind, wanted.colour or "red", 4.0, 0.8, x, y))
    if any(wanted.place for wanted in prompt.include):
        things[0] = dataclasses.replace(things[0], x=16.0, y=16.0)
        things[1] = dataclasses.replace(
            things[1], x=16 + 1.5 * (things[1].x - 16), y=16 + 1.5 * (things[1].y - 16)
        )
    return draw(Scene(tuple(things)))


@pytest.fixture
def compose_of(tmp_path, small, mesh_of, monkeypatch):
    """Changes to the section -> (paths, what was drawn: setting, seed).

    With CFG at scale 3 every image is right, otherwise every second prompt's, and half of them
    with seed 2.
    """
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    jobs, broken = [], set()

    def sample(model, wanted, guidance, seed, batch_size, **kwargs):
        jobs.append((guidance.scale, seed))
        if guidance.scale in broken:
            raise NotFinite("3 of 48 samples contain NaN")
        images = []
        for i, text in enumerate(wanted.words):
            right = guidance.scale == 3.0 or i % 2 == 0
            images.append(drawn_as_asked(EVERY[text]))
            if not right or (seed == 2 and i % 4 == 0):
                images[-1] = np.full_like(images[-1], 220)
        for first in range(0, len(images), batch_size):
            yield np.stack(images[first : first + batch_size])

    monkeypatch.setattr(composing, "sample_batches", sample)
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: small)

    def run(data="shapes", wording=True, nan=(), **changes):
        jobs.clear()
        broken.clear()
        broken.update(nan)
        given = dict(guidance=("unguided", "cfg"), scales=(2.0, 3.0, 4.0), most=2, samples=2)
        config = types.SimpleNamespace(
            seed=0, train=Train(), guidance=PRESETS, sample=Sample(steps=4, batch_size=7),
            compose=Compose(**{**given, **changes}), data=Data(name=data), model=Model(),
            evaluate=Evaluate(),
        )  # fmt: skip
        mesh, sampler = mesh_of(1, 1), Sampler()
        experiment = types.SimpleNamespace(
            image_shape=(32, 32, 3), autoencoder=None, config=config, mesh=mesh, sampler=sampler,
            settings=PRESETS, model=small,
            wording=Wording(12) if wording else None,
            sampling=dict(steps=4, seed=0, batch_size=7, mesh=mesh, sampler=sampler),
        )  # fmt: skip
        return compose.compose(experiment, str(tmp_path)), list(jobs)

    return run


def test_the_best_scale_is_reported_on_other_seeds(compose_of, tmp_path, capsys):
    paths, jobs = compose_of()
    search = [(2.0, 0), (3.0, 0), (4.0, 0)]
    assert jobs == [*search, (1.0, 1), (1.0, 2), (1.0, 3), (3.0, 1), (3.0, 2), (3.0, 3)]
    assert [p.name for p in paths] == [
        "compose.md", "compose.csv", "compose.png", "compose_grid.png",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "drawing 1/9" in said and said.count("ETA") >= 9
    page = paths[0].read_text()
    # Seed 2 loses every fourth image, and two of each prompt are drawn one after the other.
    assert "| cfg | ω 3" in page and "**1.00 ± 0.00**" not in page
    assert "3 scales were tried with the seeds 0" in page and "seeds 1, 2, 3" in page
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 11  # six tasks, five of them with held-out prompts
    search = {(r["method"], r["setting"], r["task"]): float(r["score"]) for r in rows
              if r["stage"] == "search"}  # fmt: skip
    three, two = (Guidance(s, weak_label="null").describe() for s in (3.0, 2.0))
    assert search["cfg", three, "counting"] == 1 and search["cfg", two, "counting"] == 0.5
    assert {r["setting"] for r in rows if r["chosen"] == "True" and r["method"] == "cfg"} == {three}
    with Image.open(paths[3]) as grid:
        assert grid.width > 11 * 56


def test_a_setting_whose_samples_are_not_finite_does_not_end_the_others(compose_of, capsys):
    quick = dict(scales=(3.0, 4.0), report_seeds=(1,))
    paths, jobs = compose_of(**quick, nan={4.0})
    assert jobs == [(3.0, 0), (4.0, 0), (1.0, 1), (3.0, 1)]
    page = paths[0].read_text()
    assert "ω 4, γ 0 / 0 null | samples not finite |" in page and "**1.00" in page
    assert "Not counted: 3 of 48 samples contain NaN" in capsys.readouterr().out
    paths, jobs = compose_of(**quick, nan={3.0, 4.0}, guidance=("unguided", "cfg"), seeds=(5,))
    assert jobs == [(3.0, 5), (4.0, 5)]  # the rest is there
    with pytest.raises(NotFinite, match="all settings"):
        compose_of(scales=(), report_seeds=(6,), guidance=("cfg",), nan={1.5})


@pytest.mark.slow
def test_the_score_of_another_clip_network_is_another(compose_of, tmp_path, monkeypatch):
    class Clip:
        def __init__(self, name):
            self.value = {"small": 20.0, "large": 30.0}[name]

        def scores(self, images, texts):
            return np.full(len(images), self.value)

    monkeypatch.setattr(compose, "Clip", Clip)
    given = dict(guidance=("unguided",), report_seeds=(1,))
    for name, value in (("small", "20"), ("large", "30"), ("small", "20")):
        paths, _ = compose_of(**given, clip=name)
        page = paths[0].read_text()
        assert f"The CLIP score is that of {name}." in page and f"{value}.00" in page
    assert compose_of(**given, clip="large")[1] == []
    (tmp_path / "some.txt").write_text("a circle\n")  # nothing else scores its images
    own = dict(data="digits", prompts=str(tmp_path / "some.txt"), scales=())
    paths, _ = compose_of(**given, **own, clip="small")
    assert [path.name for path in paths] == ["compose.md", "compose.csv", "compose_grid.png"]
    page = paths[0].read_text()
    assert "Scores are mean ±" in page and "GenEval" not in page


def test_what_is_there_is_not_drawn_again(compose_of, tmp_path):
    compose_of()
    first = (tmp_path / "compose.csv").read_bytes()
    _, jobs = compose_of()
    assert jobs == [] and (tmp_path / "compose.csv").read_bytes() == first
    lines = first.decode().splitlines()
    lost = [line for line in lines if ",4.0," in line or "counting,held out" not in line]
    (tmp_path / "compose.csv").write_text("\n".join(lost) + "\n")
    _, jobs = compose_of()
    assert len(jobs) == 9  # each lacks a task
    _, jobs = compose_of(report_seeds=(1, 2, 3, 4))
    assert jobs == [(1.0, 4), (3.0, 4)]


@pytest.mark.slow
def test_what_another_command_is_drawing_is_left_to_it(compose_of, tmp_path):
    compose_of()
    path = tmp_path / "compose.csv"
    whole = path.read_text()
    with path.open() as file:
        (digest, *_) = [r["drawing"] for r in csv.DictReader(file) if r["setting"].startswith("no")]
    path.write_text("\n".join(li for li in whole.splitlines() if digest not in li) + "\n")
    with contextlib.ExitStack() as other:
        lock = tmp_path / "samples" / "composed" / f"{digest}.lock"
        assert other.enter_context(locked(lock))

        def end():
            path.write_text(whole)
            other.close()

        timer = threading.Timer(0.5, end)
        timer.start()
        _, jobs = compose_of()
        timer.join()
    assert jobs == [] and not lock.exists()
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())


def test_an_interrupted_run_goes_on(compose_of, monkeypatch):
    whole = composing.Composer._score

    def interrupted(self, name, key, keep):
        if key.seed == 2:
            raise KeyboardInterrupt
        return whole(self, name, key, keep)

    monkeypatch.setattr(composing.Composer, "_score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compose_of()
    monkeypatch.setattr(composing.Composer, "_score", whole)
    _, jobs = compose_of()
    assert jobs == [(1.0, 2), (1.0, 3), (3.0, 1), (3.0, 2), (3.0, 3)]


def test_images_are_kept_for_other_scorers(compose_of, tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    two = [EVERY["two circles"], EVERY["a red circle"]]
    file.write_text("".join(f"{p.metadata}\n" for p in two))
    given = dict(prompts=str(file), scales=(), report_seeds=(1,), keep="geneval")
    _, jobs = compose_of(**given)
    assert jobs == [(1.0, 1), (1.5, 1)]
    for folder in (tmp_path / "samples").glob("geneval_*"):
        assert (folder / "00001/metadata.jsonl").read_text().strip() == two[1].metadata
        assert len(list(folder.rglob("*.png"))) == 4
    _, jobs = compose_of(**given)
    assert jobs == []
    next((tmp_path / "samples").glob("geneval_cfg*/00000/samples/*.png")).unlink()
    _, jobs = compose_of(**given)
    assert jobs == [(1.5, 1)]


def test_other_data_is_drawn_and_not_scored(compose_of, tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("a circle\na red star\n")
    given = dict(data="digits", prompts=str(file), scales=(), report_seeds=(1,))
    paths, jobs = compose_of(**given, keep="hpsv3")
    assert [p.name for p in paths] == ["compose_grid.png"] and len(jobs) == 2
    assert len(list((tmp_path / "samples").glob("hpsv3_*/*.txt"))) == 8
    assert compose_of(**given, keep="hpsv3")[1] == []
    with pytest.raises(UserError, match=r"cannot be scored here: set config\.compose\.keep"):
        compose_of(**given)
    with pytest.raises(UserError, match=r"config\.compose\.scales=\(2\.0,\) cannot be compared"):
        compose_of(**{**given, "scales": (2.0,)}, keep="hpsv3")


def test_a_long_prompt_leaves_room_for_its_picture():
    row = types.SimpleNamespace(stage="report", method="cfg", key=Key(guidance=PRESETS["cfg"]))
    composer = types.SimpleNamespace(images=lambda row: np.zeros((1, 32, 32, 3), np.uint8))
    for text in ("a red circle, seen by a painter, " * 20, "字" * 300):
        picture = compose._grid(composer, [row], [prompts.Prompt(text)])
        assert picture.width < 1500 and picture.height < 400


def test_what_the_detector_does_not_know_is_drawn_for_another_scorer(tmp_path, capsys):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text('{"include": [{"class": "bench", "count": 1}], "prompt": "a bench"}')
    given = Compose(prompts=str(file))
    config = types.SimpleNamespace(data=Data(name="shapes"), compose=given)
    with pytest.raises(UserError, match=r"'bench' is not known.*set config\.compose\.keep\.$"):
        compose.asked(config)
    config.compose = dataclasses.replace(given, keep="geneval")
    found, scores = compose.asked(config)
    assert [prompt.text for prompt in found] == ["a bench"] and not scores
    assert "Images are not scored by what they show. " in capsys.readouterr().out


def test_bad_input_is_refused_before_anything_is_drawn(compose_of, tmp_path):
    with pytest.raises(UserError, match="reads class labels: train a network of texts"):
        compose_of(wording=False)
    with pytest.raises(UserError, match=r"config\.compose\.prompts is empty"):
        compose_of(data="digits")
    with pytest.raises(UserError, match=r"report_seeds=\(0, 1\) must not share a seed"):
        compose_of(report_seeds=(0, 1))
    with pytest.raises(UserError, match="must not contain 1, which means no guidance"):
        compose_of(scales=(1.0, 2.0))
    (tmp_path / "compose.csv").write_text("task,score,combinations,drawing,images\nx,7,seen,a,1\n")
    with pytest.raises(UserError, match=r"compose\.csv, line 2 is not a row"):
        compose_of()
