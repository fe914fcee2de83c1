"""Weights of published PyTorch networks, read into ours and written back under their names.

    state = torch.load("SiT-XL-2-256.pt", map_location="cpu")
    model = from_state_dict(state, "sit", routes=[(2, 24)])
    state = {name: torch.from_numpy(w) for name, w in to_state_dict(model, "sit").items()}

One table per family has their names, ours and both layouts; reading and writing use the same table.
"dit" is facebookresearch/DiT (arXiv 2212.09748), "sit" willisma/SiT (arXiv 2401.08740), "tread"
CompVis/tread (arXiv 2501.04765), "maskdit" Anima-Lab/MaskDiT (arXiv 2306.09305). A converted
network is the published function of (x, t, y): it predicts what it was trained to predict, at the t
it was trained with. "sit" predicts our velocity at our t. "tread" and "maskdit" predict the F of
EDM's preconditioning at its c_noise, and `sample` turns this into the velocity. "dit" predicts
noise, so its weights can be converted but the network is neither sampled nor trained.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.errors import UserError, nearest, one_of, shown
from sg_jax.models.dit import DiT
from sg_jax.models.layers import position_table
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.sizes import SIZES
from sg_jax.weights import state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.families import FAMILIES, Family, rules_of
from sg_jax.weights.layouts import groups, rearrange, shape_of


def from_state_dict(weights: Mapping, family: str, **overrides) -> DiT:
    """Build our network from published weights, with sizes from their shapes.

    Args:
      weights: names to arrays (NumPy, JAX or PyTorch) of any float type. A checkpoint may hold this
        dict under "ema", "model" or "state_dict"; the moving average is preferred. Names may begin
        with "module." (DDP), "_orig_mod." (torch.compile) or "model." (the EDM wrapper).
      family: "dit", "sit", "tread" or "maskdit".
      overrides: what the shapes do not determine.
        heads: by default as published for the widths 384, 768, 1024, 1152 and 1280, otherwise one
          per 64 channels, but at least 4, or the next lower number that divides the width. No shape
          depends on it, so nothing detects a wrong number.
        decoder_heads: "maskdit" only; 16 by default.
        routes: pairs (start, end) of blocks, both included; all but "maskdit"; none by default.
        image_size: by default the one that pos_embed was made for.
        learn_sigma: False leaves out the second half of the output channels.
        prediction: what the network was trained to return, if not what the published one returns.
        dtype, remat: see `Backbone`.

    Returns:
      A `DiT` or `MaskDiT` with float32 parameters.

    Raises:
      UserError: a family or option is unknown, a name is missing or left over, a shape does not fit
        the others, or pos_embed is not the fixed table that our networks compute.
    """
    known = _family(family)
    for name in overrides.keys() - set(known.options):
        raise UserError(
            f"{name}={overrides[name]!r} is not an option of family={family!r}: there are "
            f"{', '.join(known.options)}." + nearest(name, known.options)
        )
    arrays = state_dict.arrays(weights)
    depths = _depths(arrays)
    layouts = {name: layout.split(" -> ")[0] for name, _, _, layout in rules_of(known, depths)}
    layouts |= known.tables
    sizes = _infer(arrays, layouts)
    _check_names(arrays, layouts, sizes, family)
    _check_shapes(arrays, layouts, sizes)
    kwargs = _arguments(known, arrays, sizes, depths)
    both = kwargs["learn_sigma"]
    kwargs |= {"prediction": known.prediction, **overrides}
    network = jax.eval_shape(lambda: known.network(**kwargs, rngs=nnx.Rngs(0)))
    if both and not network.learn_sigma:
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            arrays[name] = _drop_sigma(arrays[name], network.patch)
    sizes = {**_sizes(network, known), "tokens": sizes["tokens"]}
    _check_shapes(arrays, layouts, sizes)
    state_dict.check_finite(arrays)
    for name, table in _tables(known, sizes).items():
        if not (error := np.abs(arrays[name] - table).max()) <= 1e-4:
            raise UserError(
                f"{name!r} differs by up to {error:.2g} from the fixed sine-cosine table of its "
                f"{sizes['tokens']} tokens, which our networks compute; learned position "
                "embeddings cannot be read."
            )
    shapes = named(network)
    leaves: dict[str, np.ndarray] = {}
    for name, ours, block, layout in rules_of(known, depths):
        theirs, our = layout.split(" -> ")
        value = rearrange(arrays[name], theirs, our, sizes)
        paths, index = _place(network, ours, block)
        for path, part in zip(paths, value if len(paths) > 1 else [value], strict=True):
            leaves.setdefault(path, np.empty(shapes[path].shape, np.float32))[index] = part
    return unnamed({path: jnp.asarray(leaf) for path, leaf in leaves.items()}, network)


def to_state_dict(network: DiT, family: str) -> dict[str, np.ndarray]:
    """Write a network's weights under the published names; the inverse of `from_state_dict`.

    The published DiT and SiT have 2 C output channels. For a network without learn_sigma the second
    half is filled with zeros, which their samplers of velocities never use; reading the result with
    learn_sigma=False gives the same network.

    Args:
      network: a `DiT`, or a `MaskDiT` for "maskdit". Routes have no weights.
      family: "dit", "sit", "tread" or "maskdit".

    Returns:
      Float32 arrays by name, with the fixed position tables.

    Raises:
      UserError: the family is unknown, or has no such network.
    """
    known = _family(family)
    if type(network) is not known.network:
        raise UserError(
            f"family={family!r} has the weights of a {known.network.__name__}, but the network is "
            f"a {type(network).__name__}."
        )
    leaves = {path: np.asarray(leaf) for path, leaf in named(network).items()}
    sizes = _sizes(network, known)
    out = _tables(known, sizes)
    depths = {"blocks": network.depth, "decoder_blocks": getattr(network, "decoder_depth", 0)}
    for name, ours, block, layout in rules_of(known, depths):
        paths, index = _place(network, ours, block)
        parts = [leaves[path][index] for path in paths]
        value = np.stack(parts) if len(parts) > 1 else parts[0]
        theirs, our = layout.split(" -> ")
        out[name] = np.array(rearrange(value, our, theirs, sizes), order="C")
    if known.sigma and not network.learn_sigma:
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            out[name] = _pad_sigma(out[name], network.patch)
    return out


def default_heads(width: int) -> int:
    """Return the published number of heads for `width`, or the rule of `from_state_dict`."""
    published = {width: heads for _, width, heads in SIZES.values()} | {1280: 16}  # MaskDiT's H
    rule = next(h for h in range(max(4, width // 64), 0, -1) if width % h == 0)
    return published.get(width, rule)


def _family(family: str) -> Family:
    one_of("family", family, FAMILIES)
    return FAMILIES[family]


def _depths(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many blocks each list of blocks has, by the name of the list."""
    depths: dict[str, int] = defaultdict(int)
    for name in arrays:
        if match := re.match(r"(\w+)\.(\d{1,9})\.", name):
            block = int(match[2])
            if block >= len(arrays):  # each block has a name at least
                raise UserError(
                    f"{shown(name)} is of block {block}, but there are only {len(arrays)} names."
                )
            depths[match[1]] = max(depths[match[1]], block + 1)
    return depths


def _place(network: DiT, ours: str, block: int | None) -> tuple[list[str], tuple[int, ...]]:
    """Return where a rule's weights are: paths, and the index into the stacked arrays there."""
    index: tuple[int, ...] = ()
    if block is not None:
        segments = getattr(network, ours.split("/")[0]).segments
        number = next(n for n, s in enumerate(segments) if s.start <= block < s.stop)
        ours, index = ours.replace("*", str(number)), (block - segments[number].start,)
    parts = ("query", "key", "value") if "qkv" in ours else ("",)
    return [ours.replace("qkv", part) for part in parts], index


def _sizes(network: Any, known: Family) -> dict[str, int]:
    """Return the size of every axis in the layouts of a network."""
    width, patch = network.width, network.patch
    sizes = dict(
        width=width, time=width, hidden=int(width * network.mlp_ratio), heads=network.heads,
        head=width // network.heads, channels=network.channels, row=patch, column=patch,
        out=network.channels * (1 + network.learn_sigma), tokens=network.tokens,
        labels=network.conditioning.num_classes + known.null_rows,
    )  # fmt: skip
    if known.network is MaskDiT:
        e, heads = network.decoder_width, network.decoder_heads
        hidden = int(e * network.mlp_ratio)
        sizes |= dict(decoder=e, decoder_hidden=hidden, decoder_heads=heads, part=e // heads)
    return sizes


def _tables(known: Family, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    side = math.isqrt(sizes["tokens"])
    return {
        name: position_table(side, side, sizes[layout.split()[-1]])[None].copy()  # [1, N, D]
        for name, layout in known.tables.items()
    }


def _infer(arrays: Mapping[str, np.ndarray], layouts: Mapping[str, str]) -> dict[str, int]:
    """Return the size that most arrays give each axis, from dimensions that are a single axis."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for name, axes in layouts.items():
        parts = groups(axes)
        if name in arrays and arrays[name].ndim == len(parts):
            for group, size in zip(parts, arrays[name].shape, strict=True):
                if len(group) == 1 and not group[0].isdigit():
                    votes[group[0]][size] += 1
    return {axis: count.most_common(1)[0][0] for axis, count in votes.items()}


def _arguments(known: Family, arrays, sizes: Mapping[str, int], depths: Mapping[str, int]) -> dict:
    """Return the arguments of the network's constructor, with the published number of heads."""
    width, patch, channels = sizes["width"], sizes["row"], sizes["channels"]
    side = math.isqrt(sizes["tokens"])
    if side**2 != sizes["tokens"]:
        raise UserError(
            f"'pos_embed' has {sizes['tokens']} tokens, which is not square: extra tokens (class "
            "tokens) and oblong images are not supported."
        )
    pairs = [(sizes["hidden"], width)]
    kwargs = dict(
        image_size=side * patch, channels=channels, patch=patch, width=width,
        depth=depths["blocks"], heads=default_heads(width),
        num_classes=sizes["labels"] - known.null_rows,
        learn_sigma=len(arrays["final_layer.linear.weight"]) == 2 * patch**2 * channels,
    )  # fmt: skip
    if known.network is MaskDiT:
        pairs.append((sizes["decoder_hidden"], sizes["decoder"]))
        kwargs |= dict(
            decoder_width=sizes["decoder"], decoder_depth=depths["decoder_blocks"], decoder_heads=16
        )
    ratio = max(hidden / width for hidden, width in pairs)
    while any(int(width * ratio) < hidden for hidden, width in pairs):  # a last bit was lost
        ratio = math.nextafter(ratio, math.inf)
    return kwargs | dict(mlp_ratio=ratio)


def _check_names(arrays, layouts, sizes, family: str) -> None:
    extra = [name for name in arrays if name not in layouts]
    missing = [name for name in layouts if name not in arrays]
    found = []
    if extra:
        shape, close = _text(arrays[extra[0]].shape), nearest(extra[0], missing or layouts)
        found.append(f"unknown name {extra[0]!r} {shape} ({len(extra)} in all).{close}")
    if missing:
        shape = _text(shape_of(layouts[missing[0]], sizes))
        found.append(f"missing {missing[0]!r} {shape} ({len(missing)} in all).")
    if found:
        raise UserError(f"These are not the weights of family={family!r}: " + " ".join(found))


def _check_shapes(arrays, layouts, sizes) -> None:
    for name, axes in layouts.items():
        shape, expected = arrays[name].shape, shape_of(axes, sizes)
        if len(shape) != len(expected) or any(
            isinstance(e, int) and s != e for s, e in zip(shape, expected, strict=True)
        ):
            raise UserError(
                f"{name!r} has the shape {_text(shape)}, but the other weights need "
                f"{_text(expected)}: {axes}."
            )


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _pad_sigma(rows: np.ndarray, patch: int) -> np.ndarray:
    """Add C rows of zeros after every C of rows [patch * patch * C, ...]."""
    pixels = rows.reshape(patch**2, -1, *rows.shape[1:])
    return np.concatenate([pixels, np.zeros_like(pixels)], 1).reshape(-1, *rows.shape[1:])


def _drop_sigma(rows: np.ndarray, patch: int) -> np.ndarray:
    """Undo `_pad_sigma`."""
    return rows.reshape(patch**2, 2, -1, *rows.shape[1:])[:, 0].reshape(-1, *rows.shape[1:])
