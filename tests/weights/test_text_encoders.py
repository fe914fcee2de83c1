"""Which text encoder is loaded: by name, or that of a run, which must be that of its training."""

import captioned_pictures
import pytest

from sg_jax.config import record, tree
from sg_jax.encoders import text as texts
from sg_jax.errors import UserError
from sg_jax.weights.text_encoders import load_text_encoder


@pytest.fixture
def loaded(monkeypatch):
    """The names and sections that are loaded; none is read."""
    calls = []

    def load(name, text):
        calls.append((name, text))
        return captioned_pictures.Encoder(name, text.length)

    monkeypatch.setattr(texts, "load", load)
    return calls


@pytest.fixture
def run(tmp_path):
    """Changes to config.text, and a hash -> the folder of a run that was trained so."""

    def write(fingerprint="0123456789abcdef", **text):
        config = tree.defaults()
        config.text.update(dict(encoder="a/b", length=9, prefix="Draw ") | text)
        record.write(tmp_path, config, (), {"text_fingerprint": fingerprint})
        return tmp_path

    return write


def test_by_name(loaded, tmp_path):
    found = load_text_encoder("OpenGVLab/InternVL3-2B-hf", length=7, prefix="x ")
    assert found.length == 7
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')  # as save_pretrained does
    load_text_encoder(tmp_path)
    assert [name for name, _ in loaded] == ["OpenGVLab/InternVL3-2B-hf", str(tmp_path)]
    assert loaded[0][1].prefix == "x " and loaded[1][1].length == 128


def test_that_of_a_run(loaded, run):
    load_text_encoder(run(), batch=3)
    name, text = loaded[0]
    assert (name, text.length, text.prefix, text.batch) == ("a/b", 9, "Draw ", 3)
    with pytest.raises(UserError, match="length= has no effect: the run"):
        load_text_encoder(run(), length=9)


def test_another_than_the_runs_is_refused(loaded, run):
    with pytest.raises(
        UserError, match=r"'a/b' is not the text encoder .*\(0123456789abcdef, not f"
    ):
        load_text_encoder(run("fedc"))
    with pytest.raises(UserError, match="reads bytes, so it needs no text encoder"):
        load_text_encoder(run(encoder="bytes", prefix=""))


def test_a_damaged_config_is_named(loaded, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read as a config of sg_jax"):
        load_text_encoder(tmp_path)


def test_what_names_none(loaded):
    for name in ("/no/such/folder", "", "bytes here", "a//b"):
        with pytest.raises(UserError, match=r"must be 'bytes', an existing folder, or a hub id"):
            load_text_encoder(name)
    with pytest.raises(UserError, match="name=5 must be a folder or a hub id"):
        load_text_encoder(5)
    with pytest.raises(UserError, match="size= is not one of batch, cut_prefix"):
        load_text_encoder("a/b", size=3)
    assert not loaded
