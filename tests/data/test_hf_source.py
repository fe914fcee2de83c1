"""Data sets of Hugging Face, saved to a folder; they need the extra `hf`."""

import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from sg_jax.config import parsing, trust
from sg_jax.data import hf_source, identity
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.modes import MODES


def test_a_missing_or_old_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs a package .* `pip install 'sg_jax\[hf\]'`"):
        open_source("hf:a/b", "train")
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(__version__="3.6.0"))
    with pytest.raises(UserError, match=r"needs datasets 4 or later, not 3\.6\.0, because older"):
        open_source("hf:a/b", "train")


def test_a_run_of_someone_else_downloads_nothing(tmp_path):
    config = parsing.merge(dict(data=dict(name="hf:someone/pictures")))
    with pytest.raises(UserError, match=r"is read from the hub .*\.data\.name=hf:someone/"):
        trust.check(config, str(tmp_path), [trust.DATA], ())
    trust.check(config, str(tmp_path), [trust.DATA], {"data.name"})
    config = parsing.merge(dict(data=dict(name=f"hf:{tmp_path}")))
    trust.check(config, str(tmp_path), [trust.DATA], ())
    config = parsing.merge(dict(evaluate=dict(images="hf:someone/pictures")))
    with pytest.raises(UserError, match=r"is read from the hub .*\.evaluate\.images=hf:someone/"):
        trust.check(config, str(tmp_path), MODES["evaluate"].paths(config, ""), ())
    trust.check(config, str(tmp_path), [trust.IMAGES], {"evaluate.images"})
    config = parsing.merge(dict(evaluate=dict(images="/any/folder")))
    trust.check(config, str(tmp_path), [trust.IMAGES], ())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with `both` (train 10, test 4), `one`, and other tables, all saved."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hf")
    images = [Image.new("RGB", (6, 4), (10 * i,) * 3) for i in range(10)]
    labels = [i % 2 for i in range(10)]

    def table(labels, **features):
        given = {"img": images, "label": labels}
        features = {"img": datasets.Image(), **features}
        if labels is None:
            del given["label"]
        whole = datasets.Dataset.from_dict(given)
        for column, feature in features.items():
            whole = whole.cast_column(column, feature)
        return whole

    one = table(labels, label=datasets.ClassLabel(names=["cat", "dog"]))
    one.save_to_disk(root / "one")
    both = datasets.DatasetDict({"train": one, "test": one.select(range(4))})
    both.save_to_disk(root / "both")
    table(["x", "y"] * 5).save_to_disk(root / "words")
    table([7, 3] * 5).save_to_disk(root / "numbers")
    table(None).save_to_disk(root / "unlabelled")
    table([[1]] * 10).save_to_disk(root / "lists")
    two = table(labels, label=datasets.ClassLabel(names=["cat", "dog"]))
    two = two.rename_column("label", "a").add_column("b", labels)
    two.cast_column("b", two.features["a"]).save_to_disk(root / "two")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(root / "text")
    (root / "parquet" / "data").mkdir(parents=True)
    one.to_parquet(root / "parquet" / "data" / "train-00000.parquet")
    return root


def _values(source):
    return [int(source[i]["image"][0, 0, 0]) // 10 for i in range(len(source))]


def test_a_saved_data_set_is_read_at_random(saved):
    source = open_source(f"hf:{saved}/both", "train", image_size=2)
    assert (len(source), source.class_names, source.image_shape) == (10, ("cat", "dog"), (2, 2, 3))
    assert _values(source) == list(range(10))
    assert [source[i]["label"] for i in (3, 0, 5)] == [1, 0, 1]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[7]["image"], source[7]["image"])
    assert identity.of(copy) == identity.of(source)
    batch = next(train_iterator(source, batch_size=10, seed=0))
    assert sorted(np.rint((batch["image"][:, 0, 0, 0] + 1) * 12.75)) == list(range(10))
    stored = open_source(f"hf:{saved}/one", "train", channels=1)
    assert stored.image_shape == (4, 6, 1)


def test_splits_and_slices(saved):
    name = f"hf:{saved}/both"
    assert _values(open_source(name, "train[:30%]+test[1:3]")) == [0, 1, 2, 1, 2]
    with pytest.raises(UserError, match=r"'val'.* There are: train \(10\), test \(4\)"):
        open_source(name, "val")
    with pytest.raises(UserError, match=r"There are: train \(10\), and"):
        open_source(f"hf:{saved}/one", "test")


@pytest.mark.parametrize(
    ("name", "class_names", "labels"),
    [
        ("words", ("x", "y"), [0, 1]),
        ("numbers", ("3", "7"), [1, 0]),
        ("unlabelled", ("image",), [0, 0]),
        ("parquet", ("cat", "dog"), [0, 1]),
    ],
)
def test_labels_of_any_kind(saved, tmp_path, name, class_names, labels):
    source = open_source(f"hf:{saved}/{name}", "train")
    assert source.class_names == class_names
    assert [source[i]["label"] for i in range(2)] == labels


def test_what_cannot_be_used_is_named(saved, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name, words in {
        "lists": "labels in column 'label' that are neither names nor whole numbers",
        "two": r"has 2 columns of type ClassLabel, but none is called 'label'.* Rename",
        "text": r"has no column of type Image; its columns are text \(Value\).* cast_column",
    }.items():
        with pytest.raises(UserError, match=words):
            open_source(f"hf:{saved}/{name}", "train")
    for name in ("hf:/nowhere", "hf:", "hf:a/b/c", "hf:../x"):
        with pytest.raises(UserError, match="must be hf:FOLDER, with an existing folder"):
            open_source(name, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot be opened .* give the folder that save_to_disk"):
        open_source(f"hf:{tmp_path}/empty", "train")
    assert hf_source.on_disk(f"hf:{saved}/one") and not hf_source.on_disk("hf:a/b")


def test_splits_need_not_have_the_same_columns(saved, tmp_path):
    import datasets

    both = datasets.load_from_disk(saved / "both")
    names = datasets.ClassLabel(names=["dog", "cat"])
    splits = {
        "test": both["test"].remove_columns("label"),  # the first one, and the labels are elsewhere
        "train": both["train"].add_column("text", ["a dog"] * 10),
        "val": both["test"].cast_column("label", names),
        "words": both["test"].cast_column("label", datasets.Value("string")),
    }
    name = f"hf:{tmp_path}"
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    source = open_source(name, "train")
    assert source.class_names == ("cat", "dog") and source.captions[0] == ("a dog",)
    for split, words in {
        "test": "split 'test' of .*, which lacks the column 'label' of other splits",
        "val": "split 'val' of .*, which has other classes in column 'label'",
        "train+words": "split 'words' of .*, which has other classes in column 'label'",
    }.items():
        with pytest.raises(UserError, match=rf"config\.data\.test_split='.*{words}"):
            open_source(name, split, key="test_split")


def test_an_example_without_a_label_is_a_damaged_one(saved, tmp_path):
    import datasets

    one = datasets.load_from_disk(saved / "one").remove_columns("label")
    for name, feature in {"names": datasets.ClassLabel(names=["a"]), "values": None}.items():
        some = one.add_column("label", [None] + [0] * 9, feature=feature)
        some.save_to_disk(tmp_path / name)
        with pytest.raises(UserError, match=r"example 0 of .* cannot be read \(it has no label\)"):
            open_source(f"hf:{tmp_path / name}", "train")
        assert len(open_source(f"hf:{tmp_path / name}", "train", damaged="skip")) == 9


def test_damaged_images_and_tables(saved, tmp_path):
    import datasets

    rows = {"image": [{"bytes": b"hello", "path": "a.png"}, None]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "bad")
    source = open_source(f"hf:{tmp_path}/bad", "train", image_size=2, tried=False)
    for i, words in enumerate(("These 5 bytes are not an image", "it has no image")):
        with pytest.raises(UserError, match=rf"example {i} of split 'train' cannot .*{words}"):
            source[i]
    for file in pathlib.Path(tmp_path, "bad").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be opened"):
        open_source(f"hf:{tmp_path}/bad", "train")
