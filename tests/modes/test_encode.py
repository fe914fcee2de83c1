"""Images to latents by the command: what is stored, a second start, and what is refused."""

import contextlib
import dataclasses
import json
import types

import image_files
import jax
import numpy as np
import pytest
from published import golden

import sg_jax
from sg_jax.config import parsing, record, tree
from sg_jax.data import latent_shards, latents, origin
from sg_jax.data.images import to_float
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.evaluation import real_images
from sg_jax.main import main
from sg_jax.modes import sample
from sg_jax.modes.base import Job
from sg_jax.parallel import sharding
from sg_jax.programs import decoding
from sg_jax.runs import progress
from sg_jax.weights import decoders

COUNT = 7


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with the weights of a small autoencoder as SD's, and of a tiny one."""
    folder = tmp_path_factory.mktemp("weights")
    for name, network in {"vae": "vae_sd_tiny", "tae": "tae_tiny"}.items():
        np.savez(folder / f"{name}.npz", **golden(network)[1])
    return folder


@pytest.fixture
def encode(weights, digits_dir, tmp_path):
    """Flags -> the data set of the latents of some digits, in tmp_path."""

    def run(*flags, autoencoder="vae", name="made", scale="2.0"):
        given = [f"--to={tmp_path}", f"--name={name}", "--per_file=4"]
        config = {
            "data.split": f"train[:{COUNT}]", "data.data_dir": digits_dir, "data.image_size": 16,
            "autoencoder.path": weights / f"{autoencoder}.npz", "autoencoder.chunk": 1,
        }  # fmt: skip
        config |= {"autoencoder.scale": scale} if autoencoder == "vae" else {}
        main(["main", "--mode=latents", "--config=configs/digits.py", *given,
              *(f"--config.{key}={value}" for key, value in config.items()), *flags])  # fmt: skip
        return open_source(name, "train", str(tmp_path))

    return run


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.is_file()}


def images(digits_dir):
    """The same digits, [COUNT, 16, 16, 3] in [-1, 1]."""
    source = open_source("digits", f"train[:{COUNT}]", str(digits_dir), 16)
    return np.stack([np.repeat(to_float(example["image"]), 3, -1) for example in source])


@pytest.mark.slow
def test_each_image_and_its_mirror_are_stored(encode, weights, digits_dir, tmp_path, capsys):
    source = encode()
    autoencoder = sg_jax.load_autoencoder(weights / "vae.npz", scale=2.0)
    seen = images(digits_dir)
    for first, pixels in enumerate((seen, seen[:, :, ::-1])):
        mean, std = autoencoder.encode(pixels)
        found = [source[i] for i in range(first, 2 * COUNT, 2)]
        for key, wanted in (("image", mean), ("std", std)):
            stored = np.stack([example[key] for example in found])
            assert stored.dtype == np.float16
            np.testing.assert_allclose(stored, wanted, rtol=2e-3, atol=2e-3)
    digits = open_source("digits", f"train[:{COUNT}]", str(digits_dir))
    assert [e["label"] for e in source] == [e["label"] for e in digits for _ in range(2)]
    assert source.class_names == digits.class_names
    origin = source.origin
    assert (origin.scale, origin.shift, origin.factor) == (2.0, 0.0, 8)
    assert origin.fingerprint == autoencoder.fingerprint()
    means = np.stack([e["image"] for e in source]).astype(np.float64)
    stds = np.stack([e["std"] for e in source]).astype(np.float64)
    np.testing.assert_allclose(origin.mean, means.mean((0, 1, 2)), rtol=1e-6)
    total = np.sqrt(means.var((0, 1, 2)) + (stds**2).mean((0, 1, 2)))
    np.testing.assert_allclose(origin.std, total, rtol=1e-6)
    assert len(source.files) == 4 and not list(tmp_path.glob("*unfinished"))
    assert "7/7" in capsys.readouterr().out
    _check_finds_damage(tmp_path, source, capsys)
    with pytest.raises(UserError, match=r"made/1\.0\.0 exists"):
        encode()


def _check_finds_damage(tmp_path, source, capsys):
    command = ["main", "--mode=latents", "--check", f"--to={tmp_path}", "--name=made"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress, "OFTEN", 0.0)
        main(command)
    said = capsys.readouterr().out
    assert "All 14 latents" in said and "file 3/4" in said
    path = tmp_path / "made" / "1.0.0" / source.files[2].rpartition("/")[2]
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match=path.name):
        main(command)
    path.write_bytes(whole)
    description = path.with_name("autoencoder.json")
    known = description.read_text()
    description.write_text(known.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(UserError, match=r"array_record-00000-of-00004 is not as it was written"):
        main(command)
    description.write_text(known)
    path.with_name("made-train.array_record-00009-of-00004").touch()
    with pytest.raises(UserError, match=r"00009-of-00004 is not part of this data set"):
        main(command)
    path.with_name("made-train.array_record-00009-of-00004").unlink()


def test_a_command_that_was_cut_short_goes_on(encode, tmp_path, monkeypatch, capsys):
    encode(autoencoder="tae", name="whole")
    write, written = latent_shards.Unfinished.write, []

    def cut(self, k, records):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(k)
        write(self, k, records)

    monkeypatch.setattr(latent_shards.Unfinished, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        encode(autoencoder="tae")
    assert len(list((tmp_path / "made.unfinished").glob("*array_record*"))) == 2
    with pytest.raises(UserError, match="dtype='float16', but now it is 'bfloat16'"):
        encode("--dtype=bfloat16", autoencoder="tae")
    with pytest.raises(UserError, match="is not finished"):
        main(["main", "--mode=latents", "--check", f"--to={tmp_path}", "--name=made"])
    capsys.readouterr()
    monkeypatch.setattr(latent_shards.Unfinished, "write", write)
    encode(autoencoder="tae")
    assert "2 files already there" in capsys.readouterr().out
    found, wanted = (contents(tmp_path / name / "1.0.0") for name in ("made", "whole"))
    named = {name.replace("whole", "made"): value for name, value in wanted.items()}
    assert found.keys() == named.keys()
    assert all(found[n] == named[n] for n in found if "array_record" in n)


@pytest.mark.parametrize(
    "own, words",
    [
        (dict(images="b"), r"with images='a', but process 1 has 'b': give all hosts the same"),
        (dict(autoencoder="d"), r"autoencoder='c', but process 1 has 'd'"),
        ({}, ""),
    ],
)
def test_a_host_with_other_images_or_weights_writes_nothing(tmp_path, monkeypatch, own, words):
    def unfinished(**about):
        return latent_shards.Unfinished(
            latents.place(str(tmp_path), "made"), dict(images="a", autoencoder="c") | about,
            shape=(2, 2, 4), dtype="float16", posterior=False, classes=["x"], captions=False,
            examples=4, per_file=2,
        )  # fmt: skip

    with unfinished().writing(0):
        pass
    monkeypatch.setattr(latent_shards.processes, "is_writer", lambda: False)  # the second host
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
        with unfinished(**own).writing(1):
            assert not words


@pytest.mark.slow
def test_a_latent_that_is_drawn_and_other_types(encode):
    posterior = encode("--mirror=no", "--dtype=bfloat16")
    drawn = encode("--store=sample", "--mirror=no", name="drawn")
    assert posterior.posterior and not drawn.posterior and len(drawn) == len(posterior) == COUNT
    assert posterior[0]["image"].dtype == np.float32
    noise = [(d["image"] - p["image"]) / p["std"] for d, p in zip(drawn, posterior, strict=True)]
    assert 0.7 < np.std(noise) < 1.3 and np.abs(np.mean(noise)) < 0.3  # of 112 numbers
    again = encode("--store=sample", "--mirror=no", name="again")
    np.testing.assert_array_equal(again[3]["image"], drawn[3]["image"])


def test_what_is_refused_before_any_work(encode, weights, tmp_path):
    for flags, words in (
        (["--config.autoencoder.path="], r"config\.autoencoder\.path is empty"),
        (["--config.data.image_size=12"], r"12x12.*multiple of 8.*config\.data\.image_size"),
        (["--per_file=3"], "--per_file=3 must be an even number"),
        (["--name=a-b"], "name='a-b' must be made of letters"),
        (["--config.autoencoder.path=/none/at/all"], "/none/at/all"),
    ):
        with pytest.raises(UserError, match=words):
            encode(*flags, autoencoder="tae")
    assert not [path for path in tmp_path.iterdir() if "made" in path.name]
    command = ["main", "--mode=latents", f"--to={tmp_path}", "--name=made", "--from=x"]
    with pytest.raises(UserError, match="--config has no effect: --mode=latents with --from has"):
        main([*command, "--config=configs/digits.py"])
    with pytest.raises(UserError, match=r"--config\.seed has no effect: --mode=latents with --fr"):
        main([*command, "--config.seed", "1"])
    with pytest.raises(UserError, match="--scale is missing: give the factor"):
        main(command)


@pytest.fixture
def checked(weights):
    """Values of config.autoencoder -> a config."""

    def make(**values):
        config = parsing.merge({})
        config.autoencoder.update(values)
        return tree.check(config)

    return make


def test_what_decodes_is_found_or_missed(encode, weights, tmp_path, checked):
    made, path = encode(autoencoder="tae"), weights / "tae.npz"
    assert made.origin.maker.tiny
    assert decoders.of_latents(checked(), made).fingerprint() == made.origin.fingerprint
    half = decoders.of_latents(checked(dtype="bfloat16"), made)
    assert "bfloat16" in {str(leaf.dtype) for leaf in jax.tree.leaves(half.decoder)}
    with pytest.raises(UserError, match="has the scale 3, but the latents"):
        decoders.of_latents(checked(path=str(path), scale=3.0), made)
    away = path.rename(weights / "away.npz")
    try:
        with pytest.raises(decoders.Missing, match=r"tae\.npz, which is not there: give"):
            decoders.of_latents(checked(), made)
        assert decoders.of_latents(checked(path=str(away)), made).factor == 8
        other = {k: v * 2 if k.endswith("bias") else v for k, v in golden("tae_tiny")[1].items()}
        np.savez(path, **other)
        with pytest.raises(UserError, match="whose weights have changed since"):
            decoders.of_latents(checked(), made)
    finally:
        away.rename(path)
    _origin_is_damaged(tmp_path / "made" / "1.0.0", tmp_path)


@pytest.fixture
def kept(tmp_path):
    """A run's record of what made its latents -> what stands for the data set if it is gone."""

    def make(entry):
        config = parsing.merge(dict(data=dict(name="made")))
        (tmp_path / "run").mkdir(exist_ok=True)
        record.write(tmp_path / "run", config, (), dict(latents=True, autoencoder=entry))
        job = Job(str(tmp_path / "run"), config=config)
        network = types.SimpleNamespace(image_size=2, channels=4)
        vars(job)["experiment"] = types.SimpleNamespace(model=network, config=tree.check(config))
        return sample.recorded(job).source

    return make


def test_a_record_checks_what_decodes(kept, checked, weights, monkeypatch, capsys):
    plain = sg_jax.load_autoencoder(weights / "vae.npz", scale=2.0)
    maker = origin.Maker("/gone/vae.npz", plain.fingerprint(), 2.0, 0.0, 8)

    def found(maker, **values):
        return decoders.of_latents(checked(**values), kept(maker.record()))

    monkeypatch.chdir(weights)  # where a file has the recorded name
    words = r"were made by vae\.npz \(\w+\): give .*; and set config\.autoencoder\.scale=2\.0 and s"
    with pytest.raises(decoders.Missing, match=words):
        found(maker)
    with pytest.raises(decoders.Missing, match=r"made by stabilityai/sd-vae-ft-ema \(\w+\): give"):
        found(dataclasses.replace(maker, name="stabilityai/sd-vae-ft-ema"))
    path = str(weights / "vae.npz")
    with pytest.raises(UserError, match=r"has the scale 3, but .* with 2: set config\.autoenc"):
        found(maker, path=path, scale=3.0)
    assert found(maker, path=path, scale=2.0).scale == 2 and not capsys.readouterr().out
    half = found(maker, path=path, scale=2.0, dtype="bfloat16")
    named = types.SimpleNamespace(maker=maker)
    decoding.check(half, types.SimpleNamespace(channels=4, named=named))
    assert not capsys.readouterr().out  # the same weights, although they are rounded
    assert found(dataclasses.replace(maker, fingerprint="x"), path=path, scale=2.0).factor == 8
    assert "The latents were made by vae.npz; " in capsys.readouterr().out
    tiny = str(weights / "tae.npz")  # whose latents come out scaled
    assert found(maker, path=tiny).scale == 1
    assert "tae.npz decodes them" in capsys.readouterr().out
    small = dataclasses.replace(maker, name="/gone/tae.npz", scale=1.0, tiny=True)
    assert found(small, path=path, scale=2.0).scale == 2  # the other way round too
    assert found(small, path=tiny).scale == 1
    with pytest.raises(UserError, match=r"has the scale 2, but .* with 1"):
        found(dataclasses.replace(small, tiny=False), path=path, scale=2.0)
    for entry in (3, {}, {**maker.record(), "scale": "x"}):
        with pytest.raises(UserError, match=r"config\.json does not say what made the latents"):
            kept(entry)


def _origin_is_damaged(folder, root):
    path = folder / "autoencoder.json"
    whole = json.loads(path.read_text())
    for spoilt in ("{", "[]", {**whole, "scale": "x"}, {**whole, "shards": 3}, {"scale": 1}):
        path.write_text(spoilt if isinstance(spoilt, str) else json.dumps(spoilt))
        with pytest.raises(UserError, match=r"autoencoder\.json cannot be read"):
            open_source("made", "train", str(root))
    path.unlink()
    source = open_source("made", "train", str(root))
    assert source.origin is None
    with pytest.raises(decoders.Missing, match="nothing says what decodes them"):
        decoders.of_latents(tree.check(parsing.merge({})), source)


def test_scores_compare_with_the_images_of_the_latents(encode, checked):
    made = encode(autoencoder="tae")  # of grey images, which are in colour when decoded
    config, source = real_images.of_images(checked(), made, 16)
    assert source.image_shape == (16, 16, 3) and len(source) == COUNT
    assert config.data.name == "digits"


@pytest.mark.slow
def test_samples_are_decoded_on_all_devices(weights, make_small, mesh_of):
    autoencoder = sg_jax.load_autoencoder(weights / "tae.npz")
    model = make_small(channels=4, image_size=4)
    given = dict(labels=[0, 1, 2], steps=1, batch_size=2, mesh=mesh_of(2, 1))
    latents = sg_jax.sample(model, **given, pixels=False)
    decoded = sg_jax.sample(model, **given, autoencoder=autoencoder, decode_chunk=1)
    assert decoded.shape == (3, 32, 32, 3)
    wanted = np.asarray(autoencoder.decode(latents))
    assert np.abs(to_float(decoded) - wanted.clip(-1, 1)).max() < 0.01
    with pytest.raises(UserError, match=r"latents of.* 4 channels, but samples"):
        sg_jax.sample(make_small(channels=8), [0], autoencoder=autoencoder)
    with pytest.raises(UserError, match="autoencoder=3 must be what"):
        sg_jax.sample(model, [0], autoencoder=3)


def test_nothing_moves_twice(weights, mesh_of):
    mesh = mesh_of(2, 1)
    placed = decoding.place(sg_jax.load_autoencoder(weights / "tae.npz"), mesh)
    again = decoding.place(placed, mesh)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (placed, again)), strict=True))
    assert sharding.batch_devices(mesh) == 2


@pytest.mark.slow
def test_a_latent_run_draws_and_scores_images(encode, weights, tmp_path, capsys):
    encode("--config.data.channels=3", autoencoder="tae")
    run, flags = tmp_path / "run", {
        "data.name": "made", "data.data_dir": tmp_path, "data.test_split": "test[:8]",
        "model.depth": 2, "model.width": 16, "model.heads": 2, "model.patch": 1,
        "model.routes": "((0,0),)", "train.batch_size": 8, "train.steps": 2,
        "train.sample_every": 2, "train.then": "('sample','evaluate')", "sample.steps": 1,
        "sample.count": 6, "sample.batch_size": 8, "evaluate.samples": 12,
        "evaluate.guidance": "unguided,sg", "features.epochs": 1, "features.width": 8,
    }  # fmt: skip
    given = [f"--config.{key}={value}" for key, value in flags.items()]
    main(["main", "--config=configs/digits.py", f"--workdir={run}", *given])
    assert (run / "samples" / "step_0000002.png").exists() and (run / "guidance.png").exists()
    (drawn,) = run.glob("samples/*.npz")
    with np.load(drawn) as found:
        assert found["images"].shape == (6, 16, 16, 3) and found["images"].dtype == np.uint8
        assert "decoded by" in str(found["about"])
    (weights / "tae.npz").rename(weights / "gone.npz")
    try:
        main(["main", "--mode=sample", f"--workdir={run}"])
        assert "Latents are written, not images. The latents of" in capsys.readouterr().out
        with np.load(drawn.with_name(next(run.glob("samples/*_latents.npz")).name)) as found:
            assert found["latents"].shape == (6, 2, 2, 4)
        with pytest.raises(UserError, match=r"which is not there: give the autoencoder in config"):
            main(["main", "--mode=evaluate", f"--workdir={run}"])
        assert len(list(run.glob("samples/*.png"))) == 2
    finally:
        (weights / "gone.npz").rename(weights / "tae.npz")


def test_captions_are_kept(encode, tmp_path):
    picture = image_files.picture
    contents = {f"x/{i}.png": picture(20 * i, size=(16, 16)) for i in range(5)}
    texts = {"x/0.txt": b"black\nnight", "x/3.txt": "größer".encode()}
    name = image_files.write(tmp_path / "pictures", {**contents, **texts})
    flags = (f"--config.data.name={name}", "--config.data.split=train", "--config.data.data_dir=")
    images, made = open_source(name, "train"), encode(*flags, autoencoder="tae", name="captioned")
    assert [made.captions[i] for i in range(10)] == [images.captions[i // 2] for i in range(10)]
    assert {("black", "night"), ("größer",), ()} == {made.captions[i] for i in range(10)}
    assert "captions" not in made[0]
