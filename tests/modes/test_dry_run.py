"""What --dry-run says of each mode, beside sizes and times by hand."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from published import golden

from sg_jax.data import latent_shards, latents
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.modes import dry_latents

ROOT = pathlib.Path(__file__).parents[2]
XL = "configs/imagenet256_sit_xl2_routing.py"
SMALL = ("--config", str(ROOT / "configs/imagenet256_sit_s2_routing.py"))
SD = "--config.autoencoder.path=stabilityai/sd-vae-ft-ema"


@pytest.fixture
def dry(capsys, tmp_path, monkeypatch):
    """Flags -> what the last section of a dry run says, in one line; nothing may be written."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

    def run(*flags, config=SMALL, chips="16*v5e"):
        before = sorted(tmp_path.rglob("*"))
        main(["main", *config, "--dry-run", f"--chips={chips}", *flags])
        assert sorted(tmp_path.rglob("*")) == before
        said = capsys.readouterr().out
        assert "Nothing is run or written" in said
        return re.sub(r"\s+", " ", said.partition("What --mode=")[2])

    return run


def weights_of_s2():
    """SiT-S/2 at 32x32x4: depth 12, width D = 384, 1,001 labels, 8 channels out."""
    d = 384
    block = (6 * d * d + 6 * d) + (4 * d * d + 4 * d) + (8 * d * d + 5 * d)  # adaLN, attention, MLP
    embeddings = (16 * d + d) + (256 * d + d + d * d + d) + 1001 * d  # patches, time, labels
    head = (2 * d * d + 2 * d) + (32 * d + 32)
    return 12 * block + embeddings + head


def test_training(dry):
    """Weights of 4 bytes, their moving average, and AdamW's two moments."""
    said = dry("--config.train.steps=1000", "--config.checkpoint.every=100",
               "--config.checkpoint.keep=2", "--config.checkpoint.keep_period=300")  # fmt: skip
    assert "256,000 examples, 256 a step, of imagenet256_latents" in said
    parameters = weights_of_s2()
    assert f"optimizer {8 * parameters / 1e6:.0f} MB" in said  # and two counts of steps
    assert f"weights {4 * parameters / 1e6:.0f} MB" in said
    assert f"{16 * parameters / 1e6:.0f} MB each" in said
    assert f"{8 * parameters / 1e6:.0f} MB without the optimizer" in said
    # Of 100, 200, ..., 1000 the last two are kept, and 300, 600, 900 for good.
    assert f"4 checkpoints that are kept, {4 * 16 * parameters / 1e9:.3g} GB" in said


def test_time_is_flops_over_the_share_of_the_peak(dry):
    said = dry("--config.train.steps=1000", "--mfu=0.5")
    work = float(re.search(r"compute ([\d,.]+) GFLOPs a step", said)[1].replace(",", ""))
    seconds = 1000 * work * 1e9 / (16 * 0.5 * 197e12)
    shown = float(re.search(r"time ([\d.]+) s ", said)[1])
    assert shown == pytest.approx(seconds, rel=0.05)
    assert "16 x v5e at 50% of 197 TFLOP/s, assumed" in said


def test_rates_of_training_are_counted_apart(dry):
    said = dry("--config.train.steps=1000", "--config.train.gammas=((600,0.0),)")
    assert "600 steps at γ 0.5" in said and "400 steps at γ 0 " in said


def test_a_training_that_continues_counts_what_is_left(dry, tmp_path):
    def said(begun):
        (tmp_path / "checkpoints" / str(begun)).mkdir(parents=True)
        return dry(
            *("--config.train.steps=1000", "--config.train.gammas=((600,0.0),)"),
            *("--config.train.heldout_every=100", f"--workdir={tmp_path}"),
        )

    left = said(500)
    assert "read the checkpoint of step 500 of 1,000" in left and "read 128,000 examples" in left
    assert "100 steps at γ 0.5" in left and "400 steps at γ 0 " in left
    assert "held-out images, 5 times" in left
    assert "the checkpoint of step 1,000 of 1,000" in (done := said(1000)) and "compute" not in done


def test_rates_that_are_drawn_and_a_teacher_are_counted(dry):
    flags = ("--config.train.steps=1000", "--config.train.heldout_every=500")
    plain = dry(*flags)
    said = dry(*flags, "--config.objective.rates=((0.5,0.6),(0.0,0.4))",
               "--config.train.init_from=run", "--config.objective.distill=cfg")  # fmt: skip
    assert "about 600 steps at γ 0.5" in said and "about 400 steps at γ 0 " in said
    assert "the teacher's predictions (ω 1.5, γ 0 / 0 null)" in said
    step, taught = (
        float(re.search(r"compute ([\d,.]+) GFLOPs a step", text)[1].replace(",", ""))
        for text in (plain, said)
    )
    alone = float(re.search(r"([\d,.]+) GFLOPs a step[^:]*: about 400", said)[1].replace(",", ""))
    # CFG is two forwards, so a dense step has 3 + 2 and CFG alone costs 2 of them.
    assert taught - step == pytest.approx(alone * 2 / 5, rel=2e-3)


def test_what_is_looked_at_in_training_is_counted(dry):
    flags = ("--config.train.steps=1000", "--config.train.heldout_every=100")
    said = dry(*flags, "--config.train.heldout_images=512", "--config.checkpoint.keep=1",
               "--config.checkpoint.every=1000", "--config.checkpoint.keep_period=0",
               "--config.checkpoint.keep_best=heldout_loss", "--config.train.evaluate_every=300",
               "--config.train.evaluate_samples=64", "--config.track.name=wandb")  # fmt: skip
    step = float(re.search(r"compute ([\d,.]+) GFLOPs a step", said)[1].replace(",", ""))
    look = float(re.search(r"([\d,.]+) GFLOPs each time", said)[1].replace(",", ""))
    assert look == pytest.approx(step * 512 / 256 / 3, rel=2e-3)  # forward only
    assert "the loss of 512 held-out images, 10 times" in said
    assert "64 images are drawn (unguided) and judged, 3 times" in said
    assert "2 checkpoints that are kept" in said and "pictures to wandb" in said
    with pytest.raises(UserError, match="Did you mean 'heldout_loss'"):
        dry(*flags, "--config.checkpoint.keep_best=held_loss", "--config.train.evaluate_every=9")


LATENTS = (
    "--mode=latents", "--to=D", "--name=n", "--config.data.name=imagenet2012",
    "--config.data.image_size=256",
)  # fmt: skip


@pytest.mark.parametrize(
    "flags, examples, each",
    [
        ((), 2_562_334, 16_384),  # 32 x 32 x 4 numbers of 2 bytes, mean and std
        (("--store=sample",), 2_562_334, 8_192),
        (("--mirror=no", "--dtype=bfloat16"), 1_281_167, 16_384),
    ],
)
def test_latents(dry, flags, examples, each):
    said = dry(*LATENTS, SD, *flags)
    assert "1,281,167 examples of imagenet2012, train, 148 GB, as published" in said
    assert f"{273 if '--mirror=no' in flags else 545} GFLOPs per image" in said
    assert f"{examples:,} examples in {-(-examples // 4096)} files" in said
    size = examples * (each + 160) + -(-examples // 4096) * 131_072
    assert f"write {size / 1e9:.3g} GB at most" in said
    assert f"{each:,} bytes an example" in said


def test_latents_of_texts_need_no_autoencoder(dry):
    said = dry(*LATENTS, "--config.text.encoder=Qwen/Qwen3-1.7B")
    assert "by Qwen/Qwen3-1.7B are left out note images are stored as they are" in said
    assert "no more can be said" not in said


@pytest.mark.slow
def test_float32_is_six_times_as_slow_on_tpus(dry):
    exact, fast = (
        dry(*LATENTS, SD, f"--config.autoencoder.dtype={dtype}")
        for dtype in ("float32", "bfloat16")
    )
    rates = [
        float(re.search(r"\(([\d,.]+) images/s", x)[1].replace(",", "")) for x in (exact, fast)
    ]
    assert rates[1] == pytest.approx(0.4 * 16 * 197e12 / 545.4e9, rel=1e-3)
    assert rates[1] / rates[0] == pytest.approx(6, rel=0.01)
    assert "float32 (at most 32.8 TFLOP/s a chip)" in exact and "at most 32.8" not in fast


@pytest.mark.parametrize("side, count", [(2, 2000), (8, 300), (32, 20)])
def test_the_files_of_latents_are_not_larger_than_said(tmp_path, side, count):
    shape, classes = (side, side, 4), [f"class {i}" for i in range(10)]
    unfinished = latent_shards.Unfinished(
        latents.place(str(tmp_path), "made"), {}, shape=shape, dtype="float16", posterior=True,
        classes=classes, captions=False, examples=count, per_file=count,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    unfinished.folder.mkdir(parents=True)
    unfinished.progress.mkdir()
    pairs = rng.standard_normal((count, 2, *shape)).astype(np.float16)
    unfinished.write(0, [dict(latents=m, latents_std=s, label=0) for m, s in pairs])
    said = count * (2 * 2 * side * side * 4 + dry_latents.RECORD) + dry_latents.FILE
    assert 0.7 * said < unfinished.file(0).stat().st_size <= said


def test_weights_that_are_here_are_read(dry, tmp_path):
    np.savez(tmp_path / "vae.npz", **golden("vae_sd_tiny")[1])
    given = (f"--config.autoencoder.path={tmp_path}/vae.npz", "--config.autoencoder.scale=2")
    assert "vae.npz" in dry(*LATENTS, *given)


def test_what_is_missing_is_said(dry, tmp_path):
    said = dry(*LATENTS, "--config.autoencoder.path=madebyollin/taesd")
    assert "The weights of madebyollin/taesd are not here" in said and "time" not in said[:500]
    assert "No autoencoder is named" in dry(*LATENTS)
    said = dry(*LATENTS, SD, "--config.data.name=./photos", "--config.data.image_size=100")
    assert "its number of examples is unknown" in said
    assert "config.data.image_size=100 must be a multiple of 8" in said
    with pytest.raises(UserError, match=r"/nowhere/vae\.pt' does not exist"):
        dry(*LATENTS, "--config.autoencoder.path=/nowhere/vae.pt")


def test_sampling(dry):
    flags = ("--mode=sample", "--config.sample.count=1000", "--config.sample.guidance=unguided")
    said = dry(*flags, SD)
    assert "622 GFLOPs per image: decoding" in said
    assert f"1,000 images of 256x256x3: PNG files of at most {256 * 256 * 3 / 1e3:.0f} MB" in said
    said = dry(*flags)
    assert "decoding is left out. No autoencoder is named" in said
    assert f"1,000 latents of 32x32x4: .npz of {32 * 32 * 4 * 4 / 1e3:.3g} MB" in said


def test_one_image_for_each_prompt(dry, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na star\n")
    flags = ("--mode=sample", f"--prompts={tmp_path / 'prompts.txt'}")
    small = ("--config.model.image_size=8", "--config.model.channels=3")
    texts = ("--config=configs/shapes_t2i.py", *small)
    assert "write 2 images of 8x8x3" in dry(*flags, config=texts)
    labels = ("--config=configs/digits.py", *small, "--config.model.num_classes=10")
    with pytest.raises(UserError, match=r"--prompts=.* has no effect: .*'dit' reads class labels"):
        dry(*flags, config=labels)


@pytest.mark.slow
def test_scoring(dry):
    images = "--config.evaluate.images=imagenet2012"
    said = dry("--mode=evaluate", SD, images, "--config.evaluate.samples=500",
               "--config.evaluate.seeds=(0,1)", "--config.evaluate.columns=10")  # fmt: skip
    assert "6 settings (unguided, cfg, ag, icg, ...)" in said
    assert "(6,000 images drawn and judged)" in said  # 6 settings of 500 images, with 2 seeds
    assert "judging by inception" in said and "read weights of inception: " in said
    assert "real images: 1,281,167" in said
    said = dry("--mode=evaluate", SD, "--config.evaluate.metrics=accuracy",
               "--config.evaluate.reference=real.npz", images)  # fmt: skip
    assert "judging by classifier. If" in said and "weights of" not in said
    assert "the reference real.npz instead" in said and "real images:" not in said
    said = dry("--mode=evaluate", SD, images, "--config.evaluate.samples=500",
               "--config.evaluate.columns=10", "--config.evaluate.guidance=cfg,sg,ag")  # fmt: skip
    assert f"{3 * 10 * 256 * 256 * 3 / 1e6:.3g} MB in samples/scored" in said


@pytest.mark.slow
def test_scoring_a_grid_and_diversity(dry):
    images = "--config.evaluate.images=imagenet2012"
    grid = ("--config.sweep.gamma_strong=(0.0,)", "--config.sweep.gamma_weak=(0.5,)")
    said = dry("--mode=sweep", SD, images, *grid, "--config.sweep.scale=(1.5,2.0)")
    assert "2 rows of scores.csv" in said and "(2,000 images drawn and judged)" in said
    said = dry("--mode=diversity", SD, images, "--config.diversity.samples=100")
    assert "3 settings (no guidance, cfg, sg)" in said


@pytest.mark.parametrize("dtype, width", [("float32", 4), ("bfloat16", 2)])
def test_exporting(dry, dtype, width):
    said = dry("--mode=export", "--to=net", f"--dtype={dtype}")
    assert f"write {weights_of_s2() * width / 1e6:.3g} MB in {dtype}, to net" in said


def test_what_follows_training_is_said_too(dry, tmp_path, capsys):
    digits = ("--config", str(ROOT / "configs/digits.py"), "--config.model.channels=1",
              "--config.model.image_size=8", "--config.model.num_classes=10")  # fmt: skip
    said = dry(config=digits)
    for words in ("1,501, as published", "What --mode=sample", "What --mode=evaluate"):
        assert words in said


def test_mesh_and_batch_are_those_of_the_chips(dry):
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=16")
    with pytest.raises(UserError, match=r"must be the number of devices, which is 16 \("):
        dry(*mesh)
    with pytest.raises(UserError, match=r"batch_size=24 must be a positive multiple of 32"):
        dry(*mesh, "--config.train.batch_size=24", chips="v5e:4x8")


def test_the_flags_are_for_dry_runs():
    with pytest.raises(UserError, match="--chips has no effect: it is for --dry-run"):
        main(["main", *SMALL, "--workdir=x", "--chips=v5e"])
    with pytest.raises(UserError, match="--dry-run has no effect: --mode=import has no dry run"):
        main(["main", "--mode=import", "--from=x", "--workdir=x", "--dry-run"])
    with pytest.raises(UserError, match="--mode=evaluate with --samples has no dry run"):
        main(["main", "--mode=evaluate", "--samples=x", "--config.evaluate.keep=png", "--dry-run"])


@pytest.mark.slow
def test_the_commands_of_the_papers_network(dry, monkeypatch):
    """Each command in the docstring says what it would do, and what the docstring says of it."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / XL).read_text().partition('"""')[2].partition('"""')[0].replace("\\\\\n", " ")
    commands = re.findall(r"python -m sg_jax\.main ([^\n]*)", text)
    assert len(commands) == 5
    known = ("--config.evaluate.images=imagenet2012", SD)
    said, faster = {}, {}
    for command in commands:
        words = shlex.split(command)
        mode = words[words.index("--mode") + 1] if "--mode" in words else "train"
        more = known if mode in ("sample", "evaluate") else ()
        more += ("--config", XL) if mode == "export" else ()
        said[mode] = dry(*words, *more, config=())
        if mode in ("latents", "sample", "evaluate"):
            faster[mode] = dry(*words, *more, "--config.autoencoder.dtype=bfloat16", config=())
    for mode, time, bfloat16, words in (
        ("latents", "55.4", "9.24", "55 min (9)"),
        ("sample", "7.31", "5.25", "7.3 min (5.3)"),
        ("evaluate", "73", "60.7", "73 min (61)"),
    ):
        assert f"time {time} min" in said[mode] and f"time {bfloat16} min" in faster[mode]
        assert re.search(rf"{mode} +{re.escape(words)} for ", text)
    assert "write 42.5 GB" in said["latents"]
    assert "time 1.95 days" in said["train"] and "41 checkpoints" in said["train"]
    assert "10.8 GB each" in said["train"] and "write 2.7 GB" in said["export"]
    assert "at most 9.83 GB" in said["sample"]
