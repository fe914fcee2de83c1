"""A prepared folder whose files do not belong together, or do what data must not do."""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError

BLOCK = 65536  # ArrayRecord pads its files to multiples of it


def _edit(path, *change):
    text = path.read_text()
    assert text.count(change[0]) == 1, text
    path.write_text(text.replace(*change))


def _open(folder):
    return open_source("digits", "train", str(folder))


def test_a_file_cut_at_a_block_is_named_when_opened(copied):
    folder, shard = copied
    data = shard.read_bytes()
    assert len(data) == 7 * BLOCK
    for length in range(BLOCK, len(data), BLOCK):
        shard.write_bytes(data[:length])
        with pytest.raises(UserError, match=rf"'train' cannot be read from {shard} \(.+\): delete"):
            _open(folder)


@pytest.mark.parametrize("count", ["1500", "1502", "9"])
def test_another_number_of_examples_than_described_is_noticed(copied, count):
    folder, shard = copied
    _edit(folder / "digits/1.0.0/dataset_info.json", '"1501"', f'"{count}"')
    message = rf"from {shard} \(it holds 1501 examples, but dataset_info\.json says {count}\)"
    with pytest.raises(UserError, match=message):
        _open(folder)


def test_a_pipe_is_not_waited_for(copied):
    folder, shard = copied
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(UserError, match="not a regular file"):
        _open(folder)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "{DATASET}.{X}", "{"])
def test_files_lie_in_their_folder(copied, name):
    folder, _ = copied
    info = folder / "digits/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", name))
    with pytest.raises(UserError, match=r"dataset_info\.json (puts outside|is damaged)"):
        _open(folder)


def test_a_path_may_climb_to_the_folder(copied, monkeypatch):
    folder, _ = copied
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    assert len(_open("..")) > 0


@pytest.mark.parametrize(
    "hidden", [False, True], ids=["plainly", "in the content of another feature"]
)
def test_a_description_imports_no_module_of_its_own(copied, hidden, tmp_path, monkeypatch):
    folder, _ = copied
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "digits/1.0.0/features.json"
    features = json.loads(path.read_text())
    inside = features["featuresDict"]["features"]
    if hidden:
        content = {"feature": {"type": "trap.Feature", "content": {}}}
        inside["id"] = {
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "jsonFeature": {"json": json.dumps(content)},
        }
    else:
        inside["id"]["pythonClassName"] = "trap.Text"
    path.write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"features\.json names the feature 'trap\.\w+'"):
        _open(folder)
    assert "trap" not in sys.modules


@pytest.mark.parametrize("found", ["brackets", "capitals", "default config"])
def test_a_description_imports_no_module_wherever_tfds_finds_it(copied, found, monkeypatch):
    folder, _ = copied
    (folder / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder)
    features = json.loads((folder / "digits/1.0.0/features.json").read_text())
    features["featuresDict"]["features"]["id"]["pythonClassName"] = "trap.Text"
    (folder / "digits/1.0.0/features.json").write_text(json.dumps(features))
    name, root = "digits", folder
    if found == "brackets":
        root = (folder / "digits").rename(folder / "[1]").parent / "[1]"
        (root / "digits").mkdir()
        (root / "1.0.0").rename(root / "digits/1.0.0")
    if found == "capitals":
        name = "Digits"
    if found == "default config":
        (folder / "digits").rename(folder / "other")
        (folder / "digits/.config").mkdir(parents=True)
        text = json.dumps({"default_config_name": "../other"})
        (folder / "digits/.config/metadata.json").write_text(text)
    with pytest.raises(UserError, match=r"features\.json names the feature 'trap\.Text'"):
        open_source(name, "train", str(root))
    assert "trap" not in sys.modules


def test_a_description_asks_for_no_more_than_a_million_classes(copied):
    folder, _ = copied
    _edit(folder / "digits/1.0.0/features.json", '"10"', '"1000000000000"')
    with pytest.raises(UserError, match=r"1000000000000 classes; there may be at most 1,000,000"):
        _open(folder)


def test_a_feature_that_records_lack_is_named(copied):
    folder, shard = copied
    _edit(folder / "digits/1.0.0/features.json", '"label"', '"lable"')
    with pytest.raises(UserError, match=rf"read from {shard} \(it has no 'lable'"):
        _open(folder)


class Latents(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """TFDS's own, which asks for tensorflow although it needs none."""

    url_infos = None

    def _split_generators(self, dl_manager):
        return {"train": iter(self._split_datasets["train"])}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("latents", np.nan, r"latents that are not finite \(nan at \(0, 1, 0\)\)"),
        ("latents", np.inf, r"latents that are not finite \(inf at"),
        ("latents_std", np.nan, "standard deviations that are not finite"),
        ("latents_std", -1.0, "a standard deviation of -1, which must not be negative"),
    ],
)
def test_latents_that_are_not_finite_are_named_with_their_file(tmp_path, key, value, message):
    tensor = tfds.features.Tensor(shape=(2, 2, 1), dtype=np.float16)
    label = tfds.features.ClassLabel(num_classes=2)
    ones = np.ones((2, 2, 1), np.float16)
    examples = [{"latents": ones, "latents_std": ones, "label": 0} for _ in range(4)]
    wrong = ones.copy()
    wrong[0, 1, 0] = value
    examples[2] = {**examples[2], key: wrong}
    Latents(
        name="bad",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"latents": tensor, "latents_std": tensor, "label": label}
        ),
        split_datasets={"train": list(enumerate(examples))},
        data_dir=tmp_path,
        disable_shuffling=True,
    ).download_and_prepare(file_format="array_record")
    source = open_source("bad", "train", str(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        next(train_iterator(source, batch_size=8, seed=0))
    assert "example 2 of split 'train'" in str(error.value)
    assert f"read from {source.files[0]}. Mend" in str(error.value)
