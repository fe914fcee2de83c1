import itertools
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sg_jax.config import geometry, parsing
from sg_jax.data import latents
from sg_jax.data.pipeline import seek, train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.main import main

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
FIXED = RNG.standard_normal((30, 4, 4, 2)).astype(np.float16)
STD = RNG.uniform(0.1, 1.0, FIXED.shape).astype(np.float16)
LABELS = [i % 5 for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the data sets `fixed` and `drawn`."""
    root = tmp_path_factory.mktemp("latents")
    latents.write(zip(FIXED, LABELS, strict=True), str(root), "fixed", 5)
    pairs = np.stack([FIXED, STD], axis=1)
    latents.write(zip(pairs, LABELS, strict=True), str(root), "drawn", 5)
    return root


def _batches(source, count, first=0, **arguments):
    iterator = train_iterator(source, **{"batch_size": 10, "seed": 3, **arguments})
    seek(iterator, first)
    return list(itertools.islice(iterator, count))


def test_what_is_written_is_read(folder):
    source = open_source("fixed", "train", str(folder))
    assert (source.latents, source.posterior, source.image_shape) == (True, False, (4, 4, 2))
    assert (len(source), source.num_classes) == (30, 5)
    for i, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], FIXED[i], strict=True)
        assert example["label"] == LABELS[i]
    stored = tfds.data_source("drawn", data_dir=folder, split="train")  # plain TFDS
    np.testing.assert_array_equal(stored[7]["latents_std"], STD[7], strict=True)


def test_small_shards_hold_every_example_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 4)
    monkeypatch.setattr(latents, "CHUNK", 7)
    path = latents.write(zip(FIXED, LABELS, strict=True), str(tmp_path), "shards", 5)
    assert len(list(path.glob("*array_record*"))) == 8  # ceil(30 / 4)
    read = open_source("shards", "train", str(tmp_path))
    np.testing.assert_array_equal([example["image"] for example in read], FIXED)


def test_fixed_latents_come_as_they_are(folder):
    source = open_source("fixed", "train", str(folder))
    batches = _batches(source, 3)  # one epoch
    images, labels = (np.concatenate([b[key] for b in batches]) for key in ("image", "condition"))
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    order = [np.flatnonzero((FIXED == image).all((1, 2, 3))).item() for image in images]
    assert sorted(order) == list(range(30))
    np.testing.assert_array_equal(labels, np.array(LABELS)[order])


class InMemory:
    """What the data sets of `folder` hold, read faster."""

    name, split, num_classes = "memory", "train", 5
    image_shape = FIXED.shape[1:]
    latents = True

    def __init__(self, posterior):
        self.posterior = posterior

    def __len__(self):
        return len(FIXED)

    def __getitem__(self, i):
        spread = {"std": STD[i]} if self.posterior else {}
        return {"image": FIXED[i], "label": LABELS[i], **spread}


def test_in_memory_they_are_the_same(folder):
    for name, posterior in (("fixed", False), ("drawn", True)):
        stored = open_source(name, "train", str(folder))
        for example, other in zip(stored, InMemory(posterior), strict=True):
            jax.tree.map(np.testing.assert_array_equal, example, other)


def test_latents_are_drawn_anew_from_their_distribution():
    batches = _batches(InMemory(posterior=True), 3 * 20)
    images = np.concatenate([b["image"] for b in batches])  # [20 * 30, 4, 4, 2]
    # The order is that of the fixed ones, which tells who is who.
    same = _batches(InMemory(posterior=False), 3 * 20)
    means = np.concatenate([b["image"] for b in same])
    who = [np.flatnonzero((FIXED == mean).all((1, 2, 3))).item() for mean in means]
    z = (images - means) / STD[who].astype(np.float32)  # [600, 4, 4, 2], standard normal
    assert len(np.unique(z, axis=0)) == 600
    assert abs(z.mean(0)).max() < 5 / np.sqrt(600)
    assert abs(z.var(0) - 1).max() < 5 * np.sqrt(2 / 600)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"threads": 0}, {"workers": 2, "threads": 1}])
def test_draws_are_the_same_from_any_step(folder, arguments):
    source = open_source("drawn", "train", str(folder))
    whole = _batches(source, 8)
    parts = _batches(source, 3, first=5, **arguments)
    for a, b in zip(parts, whole[5:], strict=True):
        np.testing.assert_array_equal(a["image"], b["image"], strict=True)
        np.testing.assert_array_equal(a["condition"], b["condition"], strict=True)


def test_the_experiment_takes_its_shape_from_them(folder):
    source = open_source("fixed", "train", str(folder))
    given = parsing.merge(dict(model=dict(depth=2, width=8, heads=2, patch=2)))
    model = geometry.complete(given, source.image_shape, source.num_classes, latents=True).model
    assert (model.image_size, model.channels, model.num_classes) == (4, 2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data=dict(flip=True)), r"config\.data\.flip=True mirrors pixels"),
        (dict(train=dict(sample_every=5)), r"config\.train\.sample_every=5 .* decodes"),
        (dict(train=dict(then=("evaluate",))), r"config\.train\.then=\('evaluate',\) .* decodes"),
    ],
)
def test_what_needs_pixels_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        geometry.complete(parsing.merge(changes), (4, 4, 2), 5, latents=True)


@pytest.fixture
def command(folder, tmp_path):
    """The command of a small network on latents, in this mode."""

    def given(mode):
        small = [f"--config.model.{key}=2" for key in ("depth", "heads", "patch")]
        small += ["--config.model.width=8"]
        return [
            *("main", "--config", "configs/digits.py", "--workdir", str(tmp_path), "--mode", mode),
            *(f"--config.data.data_dir={folder}", "--config.data.name=fixed", *small),
            *("--config.train.then=()", "--config.train.sample_every=0", "--config.train.steps=2"),
            *("--config.model.routes=((1,1),)", "--config.train.batch_size=8"),
            *("--config.sample.count=3", "--config.sample.steps=2", "--config.sample.batch_size=8"),
        ]

    return given


@pytest.mark.parametrize("mode", ["evaluate", "sweep", "diversity"])
def test_the_command_scores_no_latents(command, mode):
    with pytest.raises(UserError, match=rf"--mode={mode} needs images.*'fixed' contains latents"):
        main(command(mode))


@pytest.mark.slow
def test_the_command_draws_latents(command, tmp_path):
    main(command("train"))
    main(command("sample"))
    (path,) = (tmp_path / "samples").iterdir()  # no picture
    with np.load(path) as drawn:
        assert drawn["latents"].shape == (3, 4, 4, 2) and drawn["latents"].dtype == np.float32
        assert "images" not in drawn.files and len(drawn["labels"]) == 3


def test_latents_are_neither_flipped_nor_resized(folder):
    source = open_source("fixed", "train", str(folder), image_size=4)
    with pytest.raises(UserError, match=r"config\.data\.flip=True mirrors pixels"):
        train_iterator(source, batch_size=2, seed=0, flip=True)
    with pytest.raises(UserError, match=r"config\.data\.image_size=8 must be 0 for 'fixed'"):
        open_source("fixed", "train", str(folder), image_size=8)


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        yield from zip(FIXED[:10], LABELS, strict=False)
        raise KeyboardInterrupt

    latents.write(zip(FIXED, LABELS, strict=True), str(tmp_path), "other", 5)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(latents, "CHUNK", 4)
        latents.write(interrupted(), str(tmp_path), "mine", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    with pytest.raises(UserError, match=r"'mine' is neither .*\(holds: other\)"):
        open_source("mine", "train", str(tmp_path))


@pytest.mark.slow
def test_a_killed_writer_is_not_taken_for_complete(tmp_path):
    script = (
        "import os, numpy as np; from sg_jax.data import latents; latents.CHUNK = 4\n"
        "def examples():\n"
        "    for i in range(8): yield np.random.default_rng(i).standard_normal((4, 4, 2)), 0\n"
        "    os._exit(1)\n"
        f"latents.write(examples(), {str(tmp_path)!r}, 'mine', 5)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 1
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial") and (left / "1.0.0" / "features.json").exists()
    with pytest.raises(UserError, match=r"'mine' is neither .*\(holds: nothing\)"):
        open_source("mine", "train", str(tmp_path))
    latents.write(zip(FIXED, LABELS, strict=True), str(tmp_path), "mine", 5)
    assert len(open_source("mine", "train", str(tmp_path))) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no examples"),
        ([(FIXED[0, :2], 0)], r"shape \(2, 4, 2\) must be"),
        ([(FIXED[0], 0), (FIXED[0, :2], 0)], r"Example 1 has shape \(2, 4, 2\)"),
        (
            [(FIXED[0] / FIXED[0].std() * 5.5, 0)],
            r"standard deviation of 5\.\d+ .*--scale 0\.18215",
        ),
        ([(FIXED[0] * 0.18, 0)], r"standard deviation of 0\.1\d+"),
        ([(FIXED[0], 5)], "Example 0 has label 5; labels must be 0 to 4"),
        ([(FIXED[0], 0), (np.full((4, 4, 2), np.nan), 0)], "not finite"),
        ([(np.stack([FIXED[0], FIXED[1]]), 0)], "negative standard deviations.*logvar"),
    ],
)
def test_wrong_examples_are_named_and_not_written(tmp_path, examples, message):
    with pytest.raises(UserError, match=message):
        latents.write(examples, str(tmp_path), "wrong", 5)
    assert not list(tmp_path.iterdir())


def test_an_existing_data_set_is_not_replaced(folder):
    with pytest.raises(UserError, match=r"fixed/1\.0\.0 exists"):
        latents.write(zip(FIXED, LABELS, strict=True), str(folder), "fixed", 5)


def test_features_of_another_form_are_named(tmp_path):
    _save_tfds(tmp_path, "doubles", latents=((4, 4, 2), np.float64))
    with pytest.raises(UserError, match=r"'latents' of shape \(4, 4, 2\) and type float64"):
        open_source("doubles", "train", str(tmp_path))
    _save_tfds(
        tmp_path, "odd", latents=((4, 4, 2), np.float32), latents_std=((4, 4, 1), np.float32)
    )
    with pytest.raises(UserError, match=r"'latents_std' of shape \(4, 4, 1\)"):
        open_source("odd", "train", str(tmp_path))


def test_float32_without_an_encoding_is_read_too(tmp_path):
    _save_tfds(tmp_path, "plain", latents=((4, 4, 2), np.float32))
    example = open_source("plain", "train", str(tmp_path))[0]
    np.testing.assert_array_equal(example["image"], np.ones((4, 4, 2), np.float32), strict=True)


def _save_tfds(root, name, **tensors):
    features = {k: tfds.features.Tensor(shape=s, dtype=d) for k, (s, d) in tensors.items()}
    example = {k: np.ones(s, d) for k, (s, d) in tensors.items()}
    label = tfds.features.ClassLabel(num_classes=5)
    builder = _Adhoc(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict({**features, "label": label}),
        split_datasets={"train": [(0, {**example, "label": 0})]},
        data_dir=root,
    )
    builder.download_and_prepare(file_format="array_record")


class _Adhoc(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """TFDS's own, which asks for tensorflow although it needs none."""

    url_infos = None

    def _split_generators(self, dl_manager):
        return {"train": iter(self._split_datasets["train"])}


def _save_npy(root, arrays):
    for kind in ("features", "labels"):
        (root / f"imagenet256_{kind}").mkdir(parents=True)
    for i, array in enumerate(arrays):
        np.save(root / "imagenet256_features" / f"{i}.npy", array)
        np.save(root / "imagenet256_labels" / f"{i}.npy", np.array([i % 5]))


def _convert(tmp_path, *arguments, name="made", folders=("npy",)):
    folders = [str(tmp_path / folder) for folder in folders]
    to = str(tmp_path / "my tfds")
    given = ["--from", *folders, "--to", to, "--name", name, "--classes", "5"]
    main(["main", "--mode", "latents", *given, *arguments])
    return open_source(name, "train", to)


@pytest.mark.parametrize("lead", [(), (1,)])
def test_npy_latents_are_scaled_once(tmp_path, lead, capsys):
    raw = RNG.standard_normal((12, *lead, 4, 8, 8)).astype(np.float32) * 5
    _save_npy(tmp_path / "npy", raw)
    source = _convert(tmp_path, "--scale", "0.2")
    expected = np.moveaxis(raw.reshape(12, 4, 8, 8), 1, -1) * np.float32(0.2)
    read = np.stack([example["image"] for example in source])  # in the order of the numbers
    np.testing.assert_array_equal(read, expected.astype(np.float16))
    assert [example["label"] for example in source] == [i % 5 for i in range(12)]
    said = capsys.readouterr().out
    assert "12 latents of 8x8x4, 5 classes" in said and "--classes" not in said
    assert f" --config.data.data_dir='{tmp_path}/my tfds'\n" in said  # for the shell
    _convert(tmp_path, "--scale", "0.2", "--classes", "7", name="more")
    assert "The highest label is 4, so 5 classes may be enough" in capsys.readouterr().out
    for name, words in (("mad", "it has made, more. Did you mean 'made'"), ("x", "no such data")):
        with pytest.raises(UserError, match=rf"^--name={name}: .*{words}"):
            main(
                ["main", "--mode=latents", f"--to={tmp_path}/my tfds", f"--name={name}", "--check"]
            )


def test_npy_moments_become_mean_and_standard_deviation(tmp_path):
    mean = RNG.standard_normal((3, 4, 8, 8)).astype(np.float32) * 5
    logvar = RNG.uniform(-6, 1, mean.shape).astype(np.float32)
    _save_npy(tmp_path / "npy", np.concatenate([mean, logvar], axis=1))
    shifted = ("--scale", "0.2", "--shift", "0.5")  # the means, not their spread
    source = _convert(tmp_path, *shifted, "--posterior", "logvar")
    std = np.exp(logvar / 2)
    for i, example in enumerate(source):
        for key, raw in (("image", mean - 0.5), ("std", std)):
            expected = np.moveaxis(raw[i], 0, -1) * 0.2
            np.testing.assert_allclose(example[key], expected, rtol=1e-3, atol=1e-6)
    _save_npy(tmp_path / "stds", np.concatenate([mean, std], axis=1))
    arguments = ("--scale", "0.2", "--posterior")
    same = _convert(tmp_path, *arguments, "std", name="same", folders=["stds"])
    np.testing.assert_array_equal(same[2]["std"], source[2]["std"])
    with pytest.raises(UserError, match="--posterior std"):
        _convert(tmp_path, *arguments, "logvar", name="wrong", folders=["stds"])


@pytest.mark.slow
def test_the_module_is_a_command_too(tmp_path):
    _save_npy(tmp_path / "npy", np.moveaxis(FIXED, -1, 1))
    flags = f"--from {tmp_path}/npy --to {tmp_path}/tfds --name made --scale 1 --classes 5"
    command = [sys.executable, "-m", "sg_jax.data.latents", *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert f"Written: {tmp_path}/tfds/made/1.0.0" in done.stdout, done.stderr
    assert len(open_source("made", "train", str(tmp_path / "tfds"))) == 30


def test_folders_are_joined(tmp_path):
    _save_npy(tmp_path / "npy", np.moveaxis(FIXED, -1, 1))
    _save_npy(tmp_path / "mirrored", np.moveaxis(FIXED[:, :, ::-1], -1, 1))
    source = _convert(tmp_path, "--scale", "1", folders=["npy", "mirrored"])
    assert len(source) == 60
    np.testing.assert_array_equal(source[31]["image"], FIXED[1, :, ::-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda npy: (npy / "x_labels").mkdir(), "folder .labels; it contains imagenet256"),
        (lambda npy: (npy / "imagenet256_labels/3.npy").unlink(), r"3\.npy must be among"),
        (lambda npy: (npy / "imagenet256_features/3.npy").write_bytes(b"x"), "cannot be read"),
        (lambda npy: np.save(npy / "imagenet256_features/3.npy", FIXED), r"not \(30, 4, 4, 2\)"),
    ],
)
def test_wrong_folders_are_named(tmp_path, spoil, message):
    _save_npy(tmp_path / "npy", np.moveaxis(FIXED, -1, 1))
    spoil(tmp_path / "npy")
    with pytest.raises(UserError, match=message):
        _convert(tmp_path, "--scale", "1")
    assert not list(tmp_path.glob("tfds/*"))
