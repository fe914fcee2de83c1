"""From a folder of pictures to pictures of a network's own, by commands alone."""

import io
import json

import numpy as np
import pytest
import tensor_files
from PIL import Image, ImageDraw
from published import golden

from sg_jax.main import main

COLOURS = dict(blue=(40, 60, 220), red=(220, 50, 40))
SIDE = 16


@pytest.fixture
def pictures(tmp_path):
    """A folder CLASS/NAME.png of discs in a class's colour, some oblong, some transparent."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for n in range(10):
            ground = (0, 0, 0, 0) if n % 3 else "white"
            image = Image.new("RGBA", (SIDE + 8 * (n % 2), SIDE), ground)
            x, y, radius = rng.integers(4, 9, 3)
            ImageDraw.Draw(image).circle((x, y), radius - 2, fill=colour)
            image.save(tmp_path / "pictures" / name / f"{n}.png")
    return tmp_path / "pictures"


@pytest.fixture
def weights(tmp_path):
    """A folder with the random weights of a small TAEF2, the encoder's and the decoder's apart."""
    folder = tmp_path / "taef2"
    folder.mkdir()
    arrays = golden("taef2_tiny")[1]
    for half in ("encoder", "decoder"):
        own = {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith(half)}
        (folder / f"taef2_{half}.safetensors").write_bytes(tensor_files.safetensors(own))
    return folder


@pytest.fixture
def call(tmp_path):
    """Flags and config -> what the command does for the small run in tmp_path / "run"."""
    data = {"data.name": "small", "data.data_dir": tmp_path, "data.test_split": "train[80%:]"}
    model = {"model.width": 16, "model.depth": 3, "model.heads": 2, "model.routes": "((1,1),)"}
    quick = {"train.batch_size": 8, "train.steps": 20, "sample.steps": 4, "sample.count": 5}
    quick |= {"train.sample_every": 0, "sample.batch_size": 8, "optimizer.warmup": 1}
    quick |= {"train.ema_decay": 0.5, "optimizer.learning_rate": 0.01}  # it learns in few steps
    settings = [f"--config.{k}={v}" for k, v in {**data, **model, **quick}.items()]

    def run(*flags, new=False):
        given = ["--config=configs/openmoji_taef2.py", *settings] if new else []
        main(["main", *given, *map(str, flags)])

    return run


def encode(call, pictures, weights, to):
    call("--mode=latents", "--config=configs/openmoji_taef2.py", f"--to={to}", "--name=small",
         f"--config.data.name={pictures}", "--config.data.split=train[:80%]",
         f"--config.data.image_size={SIDE}", f"--config.autoencoder.path={weights}")  # fmt: skip


def drawn(run, setting, count):
    """Return the pictures [count, SIDE, SIDE, 3] of a setting, checked against the .npz file."""
    (packed,) = (run / "samples").glob(f"{setting}_w*.npz")
    with np.load(packed) as found:
        images = found["images"]
        assert found["labels"].tolist() == [n % len(COLOURS) for n in range(count)]
    files = sorted(packed.with_suffix("").glob("*.png"))
    assert packed.with_suffix(".png").exists() and len(files) == count
    opened = np.stack([np.asarray(Image.open(io.BytesIO(f.read_bytes()))) for f in files])
    np.testing.assert_array_equal(opened, images)
    assert images.shape == (count, SIDE, SIDE, 3) and images.std() > 1
    return images


@pytest.mark.slow
def test_pictures_in_pictures_out(pictures, weights, call, tmp_path, capsys):
    encode(call, pictures, weights, tmp_path)
    assert "32 latents of 2x2x6, 2 classes" in capsys.readouterr().out  # 16 images, mirrored
    run, exported = tmp_path / "run", tmp_path / "exported"
    call(f"--workdir={run}", new=True)
    for setting in ("unguided", "sg", "cfg"):
        call("--mode=sample", f"--workdir={run}", f"--config.sample.guidance={setting}")
    images = {setting: drawn(run, setting, 5) for setting in ("unguided", "sg", "cfg")}
    assert len({each.tobytes() for each in images.values()}) == 3
    call("--mode=evaluate", f"--workdir={run}", "--config.evaluate.samples=12",
         "--config.evaluate.guidance=unguided,cfg,sg", "--config.features.epochs=1",
         "--config.features.width=8")  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    assert [row["name"] for row in report] == ["unguided", "cfg", "sg"]
    assert all(np.isfinite(row["frechet"]) for row in report)
    call("--mode=export", f"--workdir={run}", "--to", exported)
    call("--mode=sample", f"--workdir={exported}", f"--config.autoencoder.path={weights}")
    np.testing.assert_array_equal(drawn(exported, "sg", 5), images["sg"])
