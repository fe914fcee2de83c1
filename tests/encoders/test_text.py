"""Frozen text encoders: the section, and small ones of random weights if transformers is there."""

import dataclasses

import numpy as np
import pytest

from sg_jax.encoders import text as texts
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError

KINDS = ("qwen", "t5", "clip", "internvl")
SIZES = dict(
    vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)


def test_bytes_need_no_more_settings():
    for name, value in (("prefix", "x"), ("cut_prefix", True), ("dtype", "bfloat16"), ("batch", 2)):
        with pytest.raises(
            UserError, match=f"config.text.{name}=.* has no effect: encoder='bytes'"
        ):
            Text(**{name: value})
    with pytest.raises(UserError, match="cut_prefix=True has no effect: prefix is empty"):
        Text(encoder="a/b", cut_prefix=True)
    with pytest.raises(UserError, match=r"length=0 must lie in \[1, 4096\]"):
        Text(length=0)


def make(transformers, kind, folder, side="right"):
    """Write a small encoder with a tokenizer of bytes, whose texts end in </s> but for Qwen's."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    torch.manual_seed(0)
    vision = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    grouped = dict(num_key_value_heads=1, max_position_embeddings=256)
    if kind == "qwen":
        config = transformers.Qwen2Config(**SIZES, **grouped)
        network = transformers.Qwen2ForCausalLM(config)
    elif kind == "internvl":
        text = dict(model_type="qwen2", **SIZES, **grouped)
        config = transformers.InternVLConfig(text_config=text, vision_config=vision)
        network = transformers.InternVLForConditionalGeneration(config)
    elif kind == "t5":
        config = transformers.T5Config(
            vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
        )
        network = transformers.T5ForConditionalGeneration(config)
    else:
        text = dict(**SIZES, max_position_embeddings=32, eos_token_id=1, bos_token_id=2)
        network = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision)
        )
    network.save_pretrained(folder)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["a red circle left of a blue square"], trainer)
    if kind in ("t5", "clip"):
        end = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        made.post_processor = end
    whole = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", padding_side=side
    )
    whole.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.mark.slow  # torch and transformers take seconds to import
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_network_and_padding_does_not_count(transformers, tmp_path, kind):
    import torch

    folder = make(transformers, kind, tmp_path, "left" if kind == "qwen" else "right")
    encoder = texts.load(folder, Text(encoder=folder, length=20))
    asked = ["a red circle", "", "字" * 40, "x"]
    found = encoder(asked)
    text, length = found["text"], found["length"]
    assert text.shape == (4, 20, 16) and text.dtype == np.float32
    assert length.tolist()[1:3] == [0, 20] and encoder.cut(asked) == [False, False, True, False]
    for row in range(4):
        assert not text[row, length[row] :].any() and text[row, : length[row]].all(1).all()
    # One text alone, without any padding, through the published class.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    for name in ("language_model", "text_model"):
        network = getattr(network, name, network)
    ids = torch.tensor([tokenizer("a red circle")["input_ids"]])
    with torch.no_grad():
        plain = network(input_ids=ids).last_hidden_state[0].numpy()
    assert length[0] == len(plain)
    np.testing.assert_allclose(text[0, : length[0]], plain, rtol=1e-4, atol=1e-5)
    alone = encoder(["a red circle"])
    np.testing.assert_allclose(alone["text"][0], text[0], rtol=1e-5, atol=1e-6)
    assert encoder.features == 16 and encoder.about.encoder == folder


@pytest.mark.slow
def test_a_prefix_is_read_and_may_be_cut_off(transformers, tmp_path):
    folder = make(transformers, "qwen", tmp_path)
    how = Text(encoder=folder, length=12, prefix="a blue ")
    whole = texts.load(folder, how)
    cut = texts.load(folder, dataclasses.replace(how, cut_prefix=True))
    plain = texts.load(folder, dataclasses.replace(how, prefix=""))
    long, short, bare = (each(["circle"]) for each in (whole, cut, plain))
    size, leading = short["length"][0], long["length"][0] - short["length"][0]
    assert leading > 0 and 0 < size <= bare["length"][0] + 1
    np.testing.assert_allclose(
        short["text"][0, :size], long["text"][0, leading : leading + size], atol=1e-6
    )
    assert np.abs(short["text"] - bare["text"]).max() > 1e-3  # it was read


@pytest.mark.slow
def test_the_fingerprint_is_of_weights_and_tokenizer(transformers, tmp_path, monkeypatch):
    import torch

    folder = make(transformers, "qwen", tmp_path / "one")
    text = Text(encoder=folder, length=8)
    first = texts.load(folder, text).fingerprint()
    half = dataclasses.replace(text, dtype="bfloat16", length=9)
    assert texts.load(folder, half).fingerprint() == first
    read = transformers.PretrainedConfig.get_config_dict

    def from_hub(*args, **options):
        found, left = read(*args, **options)
        return found | {"_commit_hash": "2a"}, left

    with monkeypatch.context() as patch:
        patch.setattr(transformers.PretrainedConfig, "get_config_dict", from_hub)
        assert texts.load(folder, text).fingerprint() == first
    network = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        network.embed_tokens.weight[5, 3] += 1e-3
    network.save_pretrained(tmp_path / "two")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "two")
    assert texts.load(str(tmp_path / "two"), text).fingerprint() != first


@pytest.mark.slow
def test_what_is_no_encoder(transformers, tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded .*save_pretrained"):
        texts.load(str(tmp_path), Text(encoder=str(tmp_path)))
    folder = make(transformers, "clip", tmp_path / "clip")
    with pytest.raises(UserError, match=r"length=40 is more than the 32 tokens"):
        texts.load(folder, Text(encoder=folder, length=40))
    encoder = texts.load(folder, Text(encoder=folder, length=8))
    for wrong in ("one", [1], [None]):
        with pytest.raises(UserError, match="must be a list of texts"):
            encoder(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_a_file_lacks_are_not_made_up(transformers, tmp_path, kind):
    folder, file = make(transformers, kind, tmp_path), tmp_path / "model.safetensors"
    torch = pytest.importorskip("safetensors.torch")
    whole, text = torch.load_file(file), Text(encoder=folder, length=8)
    unused = {n for n in whole if n.startswith(("decoder.", "vision", "model.vision"))}
    torch.save_file({n: w for n, w in whole.items() if n not in unused}, file, {"format": "pt"})
    first = texts.load(folder, text).fingerprint()
    assert texts.load(folder, text).fingerprint() == first
    gone = {n for n in whole if "layers.1." in n or "block.1." in n}
    torch.save_file({n: w for n, w in whole.items() if n not in gone}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for '.*\.1\..*: copy or download it ag"):
        texts.load(folder, text)


def test_missing_packages_are_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match=r"'a/b' needs packages .*pip install 'sg_jax\[text\]'"):
        texts.load("a/b", Text(encoder="a/b"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("qwen", "clip"))
@pytest.mark.parametrize("prefix, cut", [("", False), ("draw: ", False), ("draw: ", True)])
def test_tokens_know_their_characters(transformers, tmp_path, kind, prefix, cut):
    folder = make(transformers, kind, tmp_path)
    encoder = texts.load(folder, Text(encoder=folder, length=16, prefix=prefix, cut_prefix=cut))
    asked = ["a red circle left", "a blue circle " * 5]
    for text, spans, length in zip(
        asked, encoder.spans(asked), encoder(asked)["length"], strict=True
    ):
        assert len(spans) == length
        found = "".join(text[max(a, 0) : max(b, 0)] for a, b in spans)
        assert found and text.startswith(found) and (found == text) == (text == asked[0])
