"""Random weights of published encoders, by their goldens' rule, under any set of names."""

import pathlib
import re
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(name):
    """Return inputs and outputs of a published network, and its weights: they follow from names."""
    found = dict(np.load(GOLDEN / f"{name}.npz"))
    weights = {}
    for line in found.pop("state_dict_keys"):
        key, shape = re.fullmatch(r"(\S+) \((.*)\)", line).groups()
        shape = tuple(int(n) for n in shape.split(",") if n.strip())
        noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if len(shape) > 1 and not key.endswith(("_token", "position_embeddings")):
            gain = 2 if name == "inception_fid" and len(shape) == 4 else 1
            value = noise * np.sqrt(gain / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(noise)
        else:
            value = (len(shape) == 1 and key.endswith(("weight", "lambda1"))) + 0.1 * noise
        weights[key] = value.astype(np.float32)
    return found, weights


def error(ours, theirs):
    """Return the largest error over the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def before(weights):
    """Return weights under diffusers' names of before 2023."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    return _renamed(weights, old)


def latent_diffusion(weights, levels=4, prefix=""):
    """Return weights under the names of latent diffusion, whose decoder counts from the end."""
    words = {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
        "attentions.0.group_norm": "attentions.0.norm",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        ".to_out.0.": ".proj_out.",
        "mid_block.attentions.0": "mid.attn_1",
        "resnets": "block",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        "down_blocks": "down",
    }
    found = {}
    for key, value in weights.items():
        for new, old in words.items():
            key = key.replace(new, old)
        key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
        if "attn_1" in key and value.ndim == 2:
            value = value[:, :, None, None]
        found[prefix + key] = value
    return found


def dinov2_before(weights):
    """Return weights of DINOv2 under the names of transformers before version 5."""
    old = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    old |= {"o_proj": "output.dense", "down_proj": "weights_out"}
    pairs = {"gate_proj": ("up_proj", "weights_in")}
    return _renamed(_joined(weights, pairs), old)


def dinov2_hub(weights, chunk=0):
    """Return weights of DINOv2 under the names of its own code, perhaps in chunks of blocks."""
    joined = _joined(
        weights, {"q_proj": ("k_proj", "v_proj", "qkv"), "gate_proj": ("up_proj", "w12")}
    )
    words = {
        r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
        r"embeddings\.position_embeddings": "pos_embed",
        r"embeddings\.": "",
        r"layernorm": "norm",
        r"attention\.": "attn.",
        r"o_proj": "proj",
        r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
        r"down_proj": "w3",
        r"encoder\.layer\.": "blocks.",
    }
    found = {}
    for key, value in joined.items():
        for new, old in words.items():
            key = re.sub(new, old, key)
        if chunk:
            key = re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // chunk}.{m[1]}", key)
        found[key] = value
    return found


def _joined(weights, groups):
    """Return weights with some arrays in one: the first's word, the others', the joined one's."""
    found = dict(weights)
    for first, (*others, joined) in groups.items():
        for key in [key for key in found if f".{first}." in key]:
            parts = [found.pop(key.replace(first, word)) for word in (first, *others)]
            found[key.replace(first, joined)] = np.concatenate(parts)
    return found


def _renamed(weights, words):
    return {re.sub("|".join(words), lambda m: words[m[0]], k): v for k, v in weights.items()}
