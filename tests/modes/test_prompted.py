"""From captions to pictures by the command: a network of texts is trained, drawn and scored."""

import json
import types

import captioned_pictures
import numpy as np
import pytest
from ml_collections import ConfigDict

from sg_jax.config import record
from sg_jax.data.asked import Captioned
from sg_jax.data.sources import open_source
from sg_jax.data.wording import Wording
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.modes import prompted, sample
from sg_jax.weights import text_encoders

LINES = ["a red square 3", "", "字" * 40, "a blue one", "x" * 10_000]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """The value of --prompts -> what a network is asked for; of bytes, or by an encoder."""
    monkeypatch.setattr(record, "data_of", lambda workdir: {"text_fingerprint": "0123456789abcdef"})

    def run(path="", features=0, captions=None, count=4):
        config = types.SimpleNamespace(
            data=types.SimpleNamespace(name="made"), sample=types.SimpleNamespace(count=count),
            text=types.SimpleNamespace(encoder="a/b", length=12),
        )  # fmt: skip
        conditioning = types.SimpleNamespace(check=lambda prompts, name: prompts)
        experiment = types.SimpleNamespace(
            config=config, wording=Wording(12, features), captions=captions,
            model=types.SimpleNamespace(conditioning=conditioning),
        )  # fmt: skip
        job = types.SimpleNamespace(
            workdir=str(tmp_path), options={"prompts": path},
            config=ConfigDict(dict(text=dict(encoder="a/b"))), said=("text.encoder",),
        )  # fmt: skip
        return prompted.asked(job, experiment)

    return run


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return str(path)


def test_the_prompts_of_a_file_and_how_many_are_cut(ask, lines, monkeypatch, capsys):
    found = ask(lines)
    assert found.words == found.prompts == [line for line in LINES if line]
    said = "3 prompts are longer than 12 {} (config.text.length) and cut; the first is line 1."
    assert said.format("bytes") in capsys.readouterr().out
    encoder = captioned_pictures.Encoder()
    monkeypatch.setattr(text_encoders, "of_run", lambda config, workdir: encoder)
    found = ask(lines, features=2)
    assert said.format("tokens") in capsys.readouterr().out and not encoder.seen
    assert found[:2].prompts["text"].shape == (2, 12, 2) and encoder.seen == [2]


def test_features_of_a_file_must_be_by_the_runs_encoder(ask, tmp_path):
    path = str(tmp_path / "features.npz")
    features = captioned_pictures.Encoder()(["a", "b"])
    np.savez(path, **features, prompts=["a", "b"], fingerprint="0123456789abcdef")
    found = ask(path, features=2)
    assert found.words == ["a", "b"]
    np.testing.assert_array_equal(found.prompts["text"], features["text"])
    np.savez(path, **features, fingerprint="fedc")
    with pytest.raises(UserError, match=r"is not the text encoder that .*\(fedc, not 0123456789"):
        ask(path, features=2)


def test_without_a_file_captions_of_the_data_are_drawn(ask, tmp_path):
    folder = captioned_pictures.write(tmp_path / "pictures", splits=("test",))
    captions = Captioned(open_source(str(folder), "test"), Wording(12))
    assert ask(captions=captions, count=5).words == captions.ask(5).words


def test_a_network_of_classes_draws_no_prompts():
    model = types.SimpleNamespace(kind="dit")
    experiment = types.SimpleNamespace(
        wording=None, config=types.SimpleNamespace(model=model)
    )  # fmt: skip
    job = types.SimpleNamespace(options={"prompts": "p.txt"}, experiment=experiment)
    with pytest.raises(UserError, match=r"--prompts=p\.txt has no effect: .*'dit' reads class"):
        sample.run(job)


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        model=dict(kind="text_dit", depth=2, width=16, heads=2, patch=4, routes=((1, 1),)),
        text=dict(length=12), objective=dict(gamma=0.5),
        train=dict(steps=4, batch_size=8, log_every=2, ema_decay=0.5),
        checkpoint=dict(every=2, keep=4), features=dict(epochs=2),
        sample=dict(steps=2, batch_size=4, count=6, guidance="cfg"),
        evaluate=dict(samples=12, guidance=("unguided", "cfg"), columns=4),
        diversity=dict(samples=10, guidance=("cfg",)),
    ))
"""


@pytest.fixture
def command(tmp_path):
    """Flags -> the command in a run in tmp_path."""
    (tmp_path / "config.py").write_text(CONFIG)
    pictures = captioned_pictures.write(tmp_path / "pictures", count=8)

    def run(mode, *flags, workdir="run", name=pictures, config=True):
        given = [f"--config={tmp_path / 'config.py'}"] if config else []
        given += [f"--config.data.name={name}"] if name else []
        main(["main", f"--mode={mode}", f"--workdir={tmp_path / workdir}", *given, *flags])
        return tmp_path / workdir

    return run


@pytest.mark.slow  # half a minute: several programs
def test_a_network_of_bytes_from_captions_to_scores(command, tmp_path, lines, capsys):
    looks = ["sample_every", "heldout_every", "evaluate_every"]
    run = command(
        "train", "--config.train.evaluate_samples=12",
        *(f"--config.train.{key}=2" for key in looks), "--config.train.then=sample,evaluate",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "16 of 32 captions are longer than " in said and "held-out loss" in said
    assert (run / "samples" / "step_0000004.png").exists() and (run / "guidance.png").exists()
    rows = json.loads((run / "report.json").read_text())
    assert len(rows) == 2 and all("frechet" in row and "accuracy" in row for row in rows)
    assert "captions of " in (run / "report.html").read_text()
    (table,) = (run / "samples").glob("*/prompts.jsonl")
    assert len(table.read_text().splitlines()) == 6
    # Killed after two steps, and continued, it is the same.
    command("train", "--config.train.steps=2", workdir="again")
    command("train", workdir="again")
    metrics = [
        [json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "again")
    ]
    losses = [{r["step"]: r["loss"] for r in rows if "loss" in r} for rows in metrics]
    assert losses[0] == losses[1] and sorted(losses[0]) == [2, 4]
    command("sample", f"--prompts={lines}", config=False, name="")  # without its data
    (table,) = set((run / "samples").glob("*/prompts.jsonl")) - {table}
    found = [json.loads(row) for row in table.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in found] == [line for line in LINES if line]
    assert all((table.parent / row["file_name"]).exists() for row in found)
    command("diversity", config=False)
    assert (run / "diversity.json").exists()
    with pytest.raises(UserError, match="other captions"):
        folder = captioned_pictures.write(
            tmp_path / "other", count=8, captions=lambda colour, i: f"other {i}"
        )
        command("train", "--config.train.steps=6", name=folder)


@pytest.mark.slow
def test_a_network_of_features_needs_its_encoder_for_prompts_alone(
    command, tmp_path, lines, monkeypatch
):
    encoder = captioned_pictures.Encoder()
    monkeypatch.setattr(text_encoders, "load", lambda text: encoder)
    text = "--config.text.encoder=encoders/letters"
    command("latents", f"--to={tmp_path}", "--name=made", text, workdir="")
    monkeypatch.setattr(text_encoders, "load", lambda text: pytest.fail("it is loaded"))
    data = f"--config.data.data_dir={tmp_path}"
    run = command("train", text, data, "--config.train.then=sample", name="made")
    assert len(list((run / "samples").glob("*/prompts.jsonl"))) == 1
    known = record.data_of(run)
    assert known["text_fingerprint"] == "0123456789abcdef" and known["text_length"] == 12
    with pytest.raises(UserError, match=r"is outside the run .*--config.text.encoder="):
        command("sample", f"--prompts={lines}", config=False, name="")
    monkeypatch.setattr(text_encoders, "load", lambda text: encoder)
    command("sample", f"--prompts={lines}", text, config=False, name="")
    other = captioned_pictures.Encoder(fingerprint="fedc")
    monkeypatch.setattr(text_encoders, "load", lambda text: other)
    with pytest.raises(UserError, match="is not the text encoder that the run"):
        command("sample", f"--prompts={lines}", text, config=False, name="")
    with pytest.raises(UserError, match=r"config\.data\.name='again' differs"):
        command("latents", f"--to={tmp_path}", "--name=again", text, workdir="")
        command("train", text, data, "--config.train.steps=6", name="again")
