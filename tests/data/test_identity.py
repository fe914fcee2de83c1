"""A run knows its data again, wherever it lies; other data of the same name is refused."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from image_files import animals, picture, write
from PIL import Image

from sg_jax.config import parsing, record
from sg_jax.data import identity, origin
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.main import main

MODEL = dict(depth=1, width=4, heads=1, patch=2, image_size=2, channels=1, num_classes=2)


@dataclasses.dataclass(frozen=True)
class Examples:
    """`count` grey images of 2x2 pixels, of value i; `odd` is the one that differs."""

    count: int = 10
    odd: int = -1
    odd_label: int = -1
    name: str = "memory"
    split: str = "train"
    num_classes: int = 2
    image_shape: tuple = (2, 2, 1)
    class_names: tuple = ("even", "odd")
    latents: bool = False
    posterior: bool = False
    maker: origin.Maker | None = None

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        image = np.full(self.image_shape, (i + (i == self.odd)) % 256, np.uint8)
        return {"image": image, "label": (i + (i == self.odd_label)) % 2}


def _differences(source, **changes):
    saved = json.loads(json.dumps(identity.of(source)))  # as a file keeps it
    return identity.differences(saved, identity.of(dataclasses.replace(source, **changes)))


def test_what_differs_is_named():
    assert _differences(Examples()) == ""
    assert _differences(Examples(), odd=9) == "other images"
    assert _differences(Examples(), odd_label=0) == "other labels"
    assert _differences(Examples(), odd=3, odd_label=4) == "other images and other labels"
    more = _differences(Examples(), count=2000, num_classes=3)
    assert more.startswith("examples 2,000 instead of 10, classes 3 instead of 2")


MAKER = origin.Maker("/home/me/vae.npz", "aaaa", 0.18215, 0.0, 8)


def test_what_made_latents_is_recorded_and_compared_without_its_name():
    made = Examples(maker=MAKER)
    assert identity.of(made)["autoencoder"] == dict(
        name="vae.npz", fingerprint="aaaa", scale=0.18215, shift=0.0, factor=8, tiny=False
    )
    hub = dataclasses.replace(MAKER, name="owner/vae")
    assert identity.of(Examples(maker=hub))["autoencoder"]["name"] == "owner/vae"
    assert _differences(made, maker=hub) == _differences(made, maker=None) == ""
    assert _differences(Examples(), maker=MAKER) == ""  # a record of before
    other = dataclasses.replace(MAKER, fingerprint="bbbb")
    assert _differences(made, maker=other) == "another autoencoder"
    assert _differences(made, maker=other, odd=3) == "other images and another autoencoder"
    other = dataclasses.replace(MAKER, scale=0.13025)
    assert _differences(made, maker=other) == "scale 0.13025 instead of 0.18215"


def test_of_many_examples_some_are_compared(monkeypatch):
    monkeypatch.setattr(identity, "ALL", 8)
    monkeypatch.setattr(identity, "SOME", 3)
    assert identity.of(Examples(count=9))["checked"] == 3
    noticed = [i for i in range(9) if _differences(Examples(count=9), odd=i)]
    assert noticed == [0, 4, 8]
    monkeypatch.setattr(identity, "SOME", 1)
    assert [i for i in range(9) if _differences(Examples(count=9), odd=i)] == [0]


def test_the_folder_and_the_files_do_not_matter(copied, digits_dir, tmp_path):
    folder, _ = copied
    same = [open_source("digits", "train", str(root)) for root in (folder, digits_dir)]
    whole, moved = (identity.of(source) for source in same)
    assert whole == moved and whole["checked"] == 1501

    class Reencoded:
        """As another encoder writes the PNGs."""

        def __init__(self, records):
            self.records = records

        def __getitem__(self, i):
            record = self.records[i]
            grey = same[0]._decode(i, record["image"], None)[..., 0]
            return {**record, "image": _png(grey)}

    other = dataclasses.replace(same[0], records=Reencoded(same[0].records))
    assert other.records[0]["image"] != same[0].records[0]["image"]
    assert identity.of(other) == whole


def _png(grey):
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG", compress_level=0)
    return file.getvalue()


def _prepare(folder, source, begun=True, **data):
    config = parsing.merge(dict(model=MODEL, data=data))
    record.prepare(str(folder), config, source.class_names, begun, identity.of(source))


def test_a_run_is_not_continued_on_other_data(tmp_path):
    _prepare(tmp_path, Examples(), begun=False)
    before = (tmp_path / "config.json").read_bytes()
    _prepare(tmp_path, Examples(), data_dir="/elsewhere")
    for changes, words in (
        (dict(odd=3), r"according to .*config\.json: other images\. Set config\.data\.data_dir"),
        (dict(odd_label=3), "other labels"),
        (dict(count=11), "examples 11 instead of 10"),
        (dict(class_names=("even", "uneven")), "class 1 is 'uneven' instead of 'odd'"),
        (dict(class_names=("even",)), "1 classes instead of 2"),
    ):
        with pytest.raises(UserError, match=words):
            _prepare(tmp_path, Examples(**changes))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["data"] == json.loads(before)["data"] == identity.of(Examples())


def test_a_run_goes_on_without_what_has_turned_out_to_be_damaged(tmp_path, monkeypatch):
    """The header of a cut JPEG can be read, so the run may begin before it is noticed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = {f"{c}/{i}.jpg": picture(20 * i, "JPEG", (64, 64)) for c in "ab" for i in range(5)}
    cut = {"a/3.jpg": images["a/3.jpg"][:300]}
    name = write(tmp_path / "images", images | cut)
    options = dict(image_size=2, tried=False)
    skipped = open_source(name, "train", damaged="skip", **options)
    run = tmp_path / "run"
    _prepare(run, open_source(name, "train", **options), begun=False, name=name)
    _prepare(run, skipped, name=name)
    assert record.data_of(run)["examples"] == 9
    _prepare(run, skipped, name=name)
    write(tmp_path / "images", {"b/9.jpg": picture(1, "JPEG", (64, 64))})
    with pytest.raises(UserError, match=r"examples 11 .* Set config\.data\.name to that"):
        _prepare(run, open_source(name, "train", damaged="skip", image_size=2), name=name)


def test_a_run_of_before_takes_the_data_that_it_is_continued_on(tmp_path):
    path = tmp_path / "config.json"
    _prepare(tmp_path, Examples(), begun=False)
    old = json.loads(path.read_text())
    del old["data"]
    path.write_text(json.dumps(old))
    config, names = record.read(tmp_path)
    record.check_data(str(tmp_path), config, names, identity.of(Examples(odd=3)))
    _prepare(tmp_path, Examples(odd=3))
    assert json.loads(path.read_text())["data"] == identity.of(Examples(odd=3))
    with pytest.raises(UserError, match="other images"):
        _prepare(tmp_path, Examples())


def test_another_split_is_other_data_of_the_same_set(tmp_path):
    _prepare(tmp_path, Examples(), begun=False)
    config = parsing.merge(dict(model=MODEL, data=dict(split="train[:5]")))
    part = Examples(count=5)
    record.check_data(str(tmp_path), config, part.class_names, identity.of(part))


@pytest.mark.parametrize("data", [3, "x", [1], {"examples": [[]]}])
def test_a_foreign_entry_is_named(tmp_path, data):
    _prepare(tmp_path, Examples(), begun=False)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": data}))
    with pytest.raises(
        UserError, match=r"cannot be read as a config|examples 10 instead of \[\[\]\]"
    ):
        _prepare(tmp_path, Examples())


@pytest.mark.slow
def test_the_command_neither_continues_nor_scores_on_other_data(copied, digits_dir, tmp_path):
    folder, shard = copied
    small = [f"--config.model.{key}=2" for key in ("depth", "heads", "patch")]
    command = [
        *("main", "--config", "configs/digits.py", "--workdir", str(tmp_path / "run")),
        *(f"--config.data.data_dir={folder}", "--config.model.width=8", *small),
        *("--config.model.routes=((1,1),)", "--config.train.batch_size=8"),
        *("--config.train.then=()", "--config.train.sample_every=0", "--config.train.steps=2"),
    ]
    main(command)
    shutil.copy(str(shard).replace("train", "test"), shard)
    info = folder / "digits/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"1501"', '"296"'))
    for more in (["--config.train.steps=4"], ["--mode=evaluate"], ["--mode=sweep"]):
        with pytest.raises(UserError, match=r"config\.json: examples 296 instead of 1,501"):
            main([*command, *more])
    main([*command, f"--config.data.data_dir={digits_dir}", "--config.train.steps=4"])


@pytest.mark.parametrize("kind", ["", "wds:", "hf:"])
def test_a_folder_of_images_may_move_but_not_change(tmp_path, kind):
    saved, now = f"{kind}/before/photos", f"{kind}{tmp_path}"
    _prepare(tmp_path / "run", Examples(), begun=False, name=saved)
    _prepare(tmp_path / "run", Examples(), name=now)
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["config"]["data"]["name"] == now
    )
    with pytest.raises(UserError, match="other images"):
        _prepare(tmp_path / "run", Examples(odd=3), name=saved)
    for before, after in (("cifar10", now), (now, "cifar10")):
        run = tmp_path / f"run {before == 'cifar10'}"
        _prepare(run, Examples(), begun=False, name=before)
        with pytest.raises(UserError, match=r"config\.data\.name=.* differs from"):
            _prepare(run, Examples(), name=after)


@pytest.mark.slow
def test_the_command_trains_on_a_folder_and_continues_on_a_zip_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    contents = animals(20) | {"cat/bad.jpg": b"hello"}
    folder = write(tmp_path / "animals", contents)
    moved = write(tmp_path / "moved", contents, "zip")
    small = [f"--config.model.{key}=2" for key in ("depth", "heads", "patch")]
    common = [
        *("--config.model.width=8", "--config.data.image_size=8", "--config.data.damaged=skip"),
        *("--config.data.split=train[:75%]", "--config.data.test_split=train[75%:]", *small),
        *("--config.model.routes=((1,1),)", "--config.train.batch_size=8"),
        *("--config.train.then=()", "--config.train.sample_every=0"),
        "--config.train.log_every=1",
    ]

    def train(run, name, steps, *more):
        main(
            [
                *("main", "--config", "configs/digits.py", "--workdir", str(tmp_path / run)),
                *(*common, f"--config.data.name={name}", f"--config.train.steps={steps}", *more),
            ]
        )
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line).get("loss") for line in lines]

    train("parts", folder, 2)
    found = train("parts", moved, 4, "--config.data.workers=1")
    assert found[-1] == train("whole", folder, 4)[-1]
    assert "Skipped 1 of the 31" in capsys.readouterr().out
