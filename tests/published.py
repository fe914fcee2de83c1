"""Random weights of published autoencoders, by their goldens' rule, under any set of names."""

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
        if len(shape) > 1:
            value = noise / np.sqrt(np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * noise if key.endswith("weight") else 0.1 * noise
        weights[key] = value.astype(np.float32)
    return found, weights


def error(ours, theirs):
    """Return the largest error over the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def before(weights):
    """Return weights under diffusers' names of before 2023."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    return {re.sub("|".join(old), lambda m: old[m[0]], k): v for k, v in weights.items()}


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
