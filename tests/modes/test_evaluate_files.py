"""Scoring images that others made, ADM's check, and references, as a user types them."""

import numpy as np
import pytest
import tiny_networks
from PIL import Image

from sg_jax import main
from sg_jax.errors import UserError
from sg_jax.evaluation import distances, image_sets, networks, published, references, tally
from sg_jax.weights import encoders

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 200, (30, 8, 8, 3), np.uint8)
FAKE = RNG.integers(50, 256, (20, 8, 8, 3), np.uint8)


class Interrupted(Exception):
    """What ends a command."""


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    tiny_networks.use(monkeypatch, encoders)
    np.savez(tmp_path / "real.npz", REAL)
    np.savez(tmp_path / "fake.npz", FAKE)


@pytest.fixture
def run(tmp_path, capsys):
    def call(*arguments):
        capsys.readouterr()
        given = [a.replace("@", f"{tmp_path}/") for a in arguments]
        main.main(["main", "--mode", "evaluate", *given])
        return capsys.readouterr().out

    return call


def expected():
    net = networks.Network("inception", tiny_networks.Inception(13), together=False)
    return net.score(REAL), net.score(FAKE)


def test_a_file_is_scored_against_a_file(run):
    said = run("--samples", "@fake.npz", "--config.evaluate.reference=@real.npz")
    real, fake = expected()
    fid = distances.frechet(real.features, fake.features)
    precision, recall = distances.precision_recall(real.features, fake.features)
    (line,) = [line for line in said.splitlines() if line.startswith("fake.npz")]
    cells = line.split()
    assert float(cells[1]) == pytest.approx(fid, abs=6e-3)
    assert (float(cells[4]), float(cells[5])) == pytest.approx((precision, recall), abs=6e-4)
    assert "Samples: 20 of" in said and "Reference: real.npz (" in said
    assert "Judged by: inception 000000000000000d; Versions: sg_jax " in said


def test_a_folder_of_pictures_gives_the_same(run, tmp_path):
    for i, image in enumerate(FAKE):
        (tmp_path / "fake").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "fake" / f"{i:06d}.png")
    how = ("--config.evaluate.reference=@real.npz", "--config.evaluate.metrics=fid,is,mind")
    said = [run("--samples", name, *how).splitlines() for name in ("@fake.npz", "@fake")]
    numbers = [[line.split()[1:] for line in lines if line[:4] == "fake"] for lines in said]
    assert numbers[0] == numbers[1] and len(numbers[0][0]) == 4


def test_a_data_set_is_the_reference_and_makes_one(run, tmp_path, digits_dir):
    data = ("--config.data.name=digits", f"--config.data.data_dir={digits_dir}")
    metrics = (
        "--config.evaluate.metrics=fid,precision,fd_dinov2",
        "--config.evaluate.references=90",
    )
    direct = run("--samples", "@fake.npz", *data, *metrics)
    said = run("--reference-to", "@made.npz", "--config=configs/digits.py", data[1], *metrics)
    assert "inception and dinov2 looks at 90 images of digits" in said and "made.npz" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fake.npz", "made.npz", "real.npz"]
    made = references.read(tmp_path / "made.npz")
    assert made.about["images"] == 90 and len(made.images) == 90
    assert made.images.image_shape == (8, 8, 3)  # the digits are grey, but ADM's evaluator is not
    found = run("--samples", "@fake.npz", "--config.evaluate.reference=@made.npz", *metrics[:1])
    row = [line for line in direct.splitlines() if line.startswith("fake.npz")]
    assert row == [line for line in found.splitlines() if line.startswith("fake.npz")]


@pytest.fixture
def at_third_batch(monkeypatch):
    """What to call at the third batch of four samples; everything before it is saved."""
    monkeypatch.setattr(tally, "PAUSE", 0.0)
    monkeypatch.setattr(tally.time, "monotonic", lambda: 0.0)  # always time to save
    batches, score, seen, calls = image_sets._Npz.batches, networks.Network.score, [], []

    def counted(self, images):
        if len(images) == 4:  # of the samples
            seen.append(len(images))
            if len(seen) == 3:
                for call in calls:
                    call()
        return score(self, images)

    monkeypatch.setattr(
        image_sets._Npz,
        "batches",
        lambda self, start=0: batches(self, start, 4 if len(self) == 20 else 30),
    )
    monkeypatch.setattr(networks.Network, "score", counted)
    return calls, seen


def row_of(said, name="fake"):
    return [line for line in said.splitlines() if line.startswith(f"{name}.npz")]


REFERENCE = "--config.evaluate.reference=@real.npz"
HERE = ("--workdir", "@here")


@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_interrupted_goes_on(run, tmp_path, at_third_batch, replaced):
    def interrupt():
        raise Interrupted

    calls, seen = at_third_batch
    calls.append(interrupt)
    with pytest.raises(Interrupted):
        run("--samples", "@fake.npz", REFERENCE, *HERE)
    if replaced:
        np.savez(tmp_path / "fake.npz", 255 - FAKE)
    said = run("--samples", "@fake.npz", REFERENCE, *HERE)
    assert len(seen) == 3 + (5 if replaced else 3)  # two of five batches were kept
    assert row_of(run("--samples", "@fake.npz", REFERENCE)) == row_of(said)
    assert not list((tmp_path / "here").iterdir())


def test_several_sets_can_be_scored_in_one_folder_at_the_same_time(run, tmp_path, at_third_batch):
    np.savez(tmp_path / "other.npz", 255 - FAKE)
    found = []
    how = (REFERENCE, "--config.evaluate.metrics=fid,precision,recall")
    at_third_batch[0].append(lambda: found.append(run("--samples", "@other.npz", *how, *HERE)))
    found.append(run("--samples", "@fake.npz", *how, *HERE))
    for name, said in zip(("other", "fake"), found, strict=True):
        assert row_of(said, name) == row_of(run("--samples", f"@{name}.npz", *how), name) != []


def test_adm_s_figures_stand_beside_ours(run):
    said = run("--check-adm", "@fake.npz", "@real.npz")
    lines = said[said.index("Compared with the paper's figures") :].splitlines()[3:]
    theirs = {line.split()[1]: line.split()[2] for line in lines}
    assert theirs == {
        "FID": "3.9426", "sFID": "6.1404", "IS": "215.84", "Precision": "0.8265",
        "Recall": "0.5309",
    }  # fmt: skip
    real, fake = expected()
    ours = float(lines[0].split()[3])
    assert ours == pytest.approx(distances.frechet(real.features, fake.features), abs=1e-4)
    assert published.TABLES["adm"].source.startswith("Dhariwal and Nichol")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--samples", "@none.npz", "--config.evaluate.reference=@real.npz"),
            r"none\.npz does not exist",
        ),
        (("--samples", "@fake.npz"), r"config\.evaluate\.reference is empty"),
        (("--reference-to", "@x.npz", "--config.data.image_size=8"), "no real images are named"),
        (
            (
                "--samples",
                "@fake.npz",
                "--config.evaluate.reference=@real.npz",
                "--config.evaluate.metrics=accuracy",
            ),
            "classifier of a run",
        ),
        (
            (
                "--samples",
                "@fake.npz",
                "--config=configs/digits.py",  # which names the data
                "--config.evaluate.metrics=accuracy",
            ),
            "classifier of a run",
        ),
        (("--samples", "@fake.npz", "--check-adm", "a", "b"), "Give one of"),
        (("--check-adm", "@fake.npz"), "give two files"),
        (("--reference-to", "@x.txt", "--config.data.name=digits"), r"must end in \.npz"),
        (("--samples", "@fake.npz", "--config.evaluate.metrics=fud"), r"not 'fud'\. .*fid"),
        (("--samples", "@fake.npz", "--config.evaluate.reference=@no.npz"), r"no\.npz does not"),
        (("--samples", "@fake.npz", "--config.evaluate.reference=@"), "is a folder: .*data.name"),
    ],
)
def test_bad_input_is_named(run, arguments, words):
    with pytest.raises(UserError, match=words):
        run(*arguments)
