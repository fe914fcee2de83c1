"""What latents record about their images, which are opened again from any folder."""

import dataclasses

import pytest
from image_files import animals, picture, write

from sg_jax.config import tree
from sg_jax.data.sources import open_source, options_of
from sg_jax.modes import latent_images


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Values of config.data -> what is recorded of them in tmp_path; then the folder is another."""
    (tmp_path / "away").mkdir()

    def of(**values):
        config = tree.check(tree.defaults())
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **values))
        monkeypatch.chdir(tmp_path)
        found = latent_images._images_of(config)
        monkeypatch.chdir(tmp_path / "away")
        return dataclasses.replace(config.data, **found)

    return of


def test_classes_are_found_beside_the_images_and_elsewhere(tmp_path, recorded):
    write(tmp_path / "pets", animals(2) | {"names.txt": b"dog Hund\ncat Katze"})
    (tmp_path / "others.txt").write_text("cat Kater\ndog Dackel")
    for classes, place, names in (
        ("names.txt", "pets/names.txt", ("Hund", "Katze")),
        ("others.txt", "others.txt", ("Kater", "Dackel")),
    ):
        data = recorded(name="./pets", classes=classes)
        assert (data.name, data.classes) == (f"{tmp_path}/pets", f"{tmp_path}/{place}")
        assert open_source(data.name, "train", **options_of(data)).class_names == names


def test_each_tar_keeps_how_often_it_comes(tmp_path, recorded):
    for name, value in (("b", 1), ("c", 2)):
        write(tmp_path / name, {"0.png": picture(value), "0.txt": b"grey"}, "tar")
    data = recorded(name="wds:./b.tar, c.tar@2")
    assert data.name == f"wds:{tmp_path}/b.tar,{tmp_path}/c.tar@2"
    source = open_source(data.name, "train", **options_of(data))
    assert [int(source[i]["image"][0, 0, 0]) for i in range(len(source))] == [1, 2, 2]


@pytest.mark.parametrize(
    "name, words",
    [
        ("hf:./tables.zip", "hf:{}/tables.zip"),
        ("hf:tables.zip", "hf:{}/tables.zip"),
        ("hf:owner/name", "hf:owner/name"),
        ("wds:/data/b.tar@0.5", "wds:/data/b.tar@0.5"),
        ("cifar10", "cifar10"),
    ],
)
def test_paths_are_whole_and_other_names_stay(tmp_path, recorded, name, words):
    (tmp_path / "tables.zip").touch()
    assert recorded(name=name).name == words.format(tmp_path)
