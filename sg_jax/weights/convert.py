"""Weights of published PyTorch networks, read into ours and written back under their names.

    state = torch.load("SiT-XL-2-256.pt", map_location="cpu")
    model = from_state_dict(state, "sit", routes=[(2, 24)])
    state = {name: torch.from_numpy(w) for name, w in to_state_dict(model, "sit").items()}

One table per family has their names, ours and both layouts; reading and writing use the same table.
"dit" is facebookresearch/DiT (arXiv 2212.09748), "diffusers_dit" the same in diffusers, "sit"
willisma/SiT (arXiv 2401.08740), "tread" CompVis/tread (arXiv 2501.04765), "maskdit"
Anima-Lab/MaskDiT (arXiv 2306.09305), "repa" sihyun-yu/REPA (arXiv 2410.06940), "lightningdit"
hustvl/LightningDiT (arXiv 2501.01423). A converted network is the published function of (x, t, y):
it predicts what it was trained to predict, at the t it was trained with, and `method.prediction`
turns this into our velocity. diffusers spaces the frequencies of time a little wider than DiT does,
so the same weights are another function there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sg_jax.errors import UserError, nearest, one_of, plain, shown
from sg_jax.models.dit import DiT
from sg_jax.models.layers import abstract
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.parts import PUBLISHED
from sg_jax.models.sizes import SIZES, hidden
from sg_jax.runs.progress import log
from sg_jax.weights import shapes, state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.families import FAMILIES, Family, rules_of
from sg_jax.weights.layouts import rearrange


def from_state_dict(weights: Mapping, family: str, **overrides) -> DiT:
    """Build our network from published weights, with sizes from their shapes.

    Args:
      weights: names to arrays (NumPy, JAX or PyTorch) of any float type, even half precision. The
        wrappers of trainers are taken off: mappings such as {"ema": {"module": ...}}, of which the
        moving average is preferred, and prefixes of names, such as "module." (DDP),
        "_orig_mod." (torch.compile), "_fsdp_wrapped_module." or "net.".
      family: "dit", "diffusers_dit", "sit", "tread", "maskdit", "repa" or "lightningdit".
      overrides: what the shapes do not determine.
        heads: by default as published for the widths 384, 768, 1024, 1152 and 1280, otherwise one
          per 64 channels, but at least 4, or the next lower number that divides the width. No shape
          depends on it, so nothing detects a wrong number; only "lightningdit" weights tell it.
        num_classes: tells whether the label table has a row for no class. If it has none, as after
          training without dropped labels, a row of zeros is added. See `shapes.classes`.
        decoder_heads: "maskdit" only; 16 by default.
        routes: pairs (start, end) of blocks, both included; all but "maskdit"; none by default.
        image_size: by default the one that pos_embed was made for; for "diffusers_dit", whose files
          have no pos_embed, it must be given.
        learn_sigma: False leaves out the second half of the output channels.
        prediction: what the network was trained to return, if not what the published one returns.
        time_endpoint: how frequencies of time are spaced, if not as in the published code.
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
            f"{name}={overrides[name]!r} is not an option of family={family!r}, which has "
            f"{', '.join(known.options)}." + nearest(name, known.options)
        )
    arrays = _without_dropped(state_dict.arrays(weights), known)
    known = known.having(
        part for part, rules in known.optional.items() if rules[0][0].replace("*", "0") in arrays
    )
    depths = shapes.depths(arrays)
    layouts = {name: layout.split(" -> ")[0] for name, _, _, layout in rules_of(known, depths)}
    layouts |= known.tables
    sizes = shapes.infer(arrays, layouts)
    shapes.check_names(known, arrays, layouts, sizes, family)
    shapes.check_shapes(arrays, layouts, sizes)
    if "tokens" not in sizes:
        sizes["tokens"] = _tokens(family, overrides.get("image_size"), sizes["row"])
    number, lacking = shapes.classes(known, sizes["labels"], overrides.pop("num_classes", None))
    kwargs = shapes.arguments(known, arrays, sizes, depths)
    both = kwargs["learn_sigma"]
    width = sizes["width"]
    heads = width // sizes["head"] if sizes.get("head") else default_heads(width)
    if known.parts != PUBLISHED:
        kwargs |= dataclasses.asdict(known.parts)
    kwargs |= {"heads": heads, "num_classes": number, **overrides}
    network = abstract(lambda rngs: known.network(**kwargs, rngs=rngs))
    if both and not network.learn_sigma:
        for part in ("weight", "bias"):
            name = f"{known.head}.{part}"
            arrays[name] = _drop_sigma(arrays[name], network.patch)
    if lacking:
        _add_null_row(arrays, layouts)
    sizes = {**_sizes(network, known), "tokens": sizes["tokens"]}
    shapes.check_shapes(arrays, layouts, sizes)
    state_dict.check_finite(arrays)
    for name, table in shapes.tables(known, sizes).items():
        if name in arrays:
            shapes.check_table(name, arrays[name], table)
    paths_of = named(network)
    leaves: dict[str, np.ndarray] = {}
    for name, ours, block, layout in rules_of(known, depths):
        theirs, our = layout.split(" -> ")
        value = rearrange(arrays[name], theirs, our, sizes)
        paths, index = _place(network, ours, block)
        if block and not index:
            _check_copy(name, value, leaves[paths[0]], block)
            continue
        for path, part in zip(paths, value if len(paths) > 1 else [value], strict=True):
            leaves.setdefault(path, np.empty(paths_of[path].shape, np.float32))[index] = part
    return unnamed({path: jnp.asarray(leaf) for path, leaf in leaves.items()}, network)


def to_state_dict(network: DiT, family: str) -> dict[str, np.ndarray]:
    """Write a network's weights under the published names; the inverse of `from_state_dict`.

    The published DiT and SiT have 2 C output channels. For a network without learn_sigma the second
    half is filled with zeros, which their samplers of velocities never use; reading the result with
    learn_sigma=False gives the same network.

    Args:
      network: a `DiT`, or a `MaskDiT` for "maskdit". Routes have no weights.
      family: see `from_state_dict`; "repa" is written without its projectors.

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
    if network.inner:
        raise UserError(
            f"family={family!r} has no inner head, but the network has one after block "
            f"{network.inner}: export it without a family."
        )
    known = known.having(part for part in known.optional if getattr(network.parts, part))
    for part, value in dataclasses.asdict(known.parts).items():
        if value != getattr(network.parts, part):
            raise UserError(
                f"family={family!r} has {part}={value!r}, but the network has "
                f"{getattr(network.parts, part)!r}: export it without a family."
            )
    leaves = {path: np.asarray(leaf) for path, leaf in named(network).items()}
    sizes = _sizes(network, known)
    out = shapes.tables(known, sizes) if known.table_stored else {}
    depth = network.depth
    depths = {"blocks": depth, "transformer_blocks": depth}
    depths["decoder_blocks"] = getattr(network, "decoder_depth", 0)
    for name, ours, block, layout in rules_of(known, depths):
        paths, index = _place(network, ours, block)
        parts = [leaves[path][index] for path in paths]
        value = np.stack(parts) if len(parts) > 1 else parts[0]
        theirs, our = layout.split(" -> ")
        out[name] = np.array(rearrange(value, our, theirs, sizes), order="C")
    if known.sigma and not network.learn_sigma:
        for part in ("weight", "bias"):
            name = f"{known.head}.{part}"
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


def _place(network: DiT, ours: str, block: int | None) -> tuple[list[str], tuple[int, ...]]:
    """Return where a rule's weights are: paths, and the index into the stacked arrays there."""
    index: tuple[int, ...] = ()
    if block is not None and "*" in ours:
        segments = getattr(network, ours.split("/")[0]).segments
        number = next(n for n, s in enumerate(segments) if s.start <= block < s.stop)
        ours, index = ours.replace("*", str(number)), (block - segments[number].start,)
    both = next((word for word in ours.split("/") if "+" in word), "")
    return [ours.replace(both, part) for part in both.split("+")], index


def _sizes(network: Any, known: Family) -> dict[str, int]:
    """Return the size of every axis in the layouts of a network."""
    width, patch, mlp = network.width, network.patch, network.parts.mlp
    head = width // network.heads
    sizes = dict(
        width=width, time=width, hidden=hidden(width, network.mlp_ratio, mlp), heads=network.heads,
        head=head, axis=2, pair=2, frequency=head // 4, channels=network.channels,
        row=patch, column=patch,
        out=network.channels * (1 + network.learn_sigma), tokens=network.tokens,
        labels=network.conditioning.num_classes + known.null_rows,
    )  # fmt: skip
    if known.network is MaskDiT:
        e, heads = network.decoder_width, network.decoder_heads
        inside = hidden(e, network.mlp_ratio, mlp)
        sizes |= dict(decoder=e, decoder_hidden=inside, decoder_heads=heads, part=e // heads)
    return sizes


def _without_dropped(arrays: dict[str, np.ndarray], known: Family) -> dict[str, np.ndarray]:
    """Return the arrays that sampling needs; log which parts are left out."""
    left = [name for name in arrays if known.dropped and name.startswith(known.dropped)]
    if left:
        parts = sorted({".".join(name.split(".")[:2]) for name in left})
        log(f"Left out, because only training uses them: {', '.join(parts)} ({len(left)} arrays).")
    return {name: array for name, array in arrays.items() if name not in left}


def _tokens(family: str, image_size: Any, patch: int) -> int:
    """Return the number of tokens, which no array tells."""
    if image_size is None:
        raise UserError(
            f"Weights of family={family!r} do not say the size of their images: give image_size, "
            "such as image_size=32 for the latents of 256 pixels."
        )
    if type(side := plain(image_size)) is not int or not 0 < side < 2**15 or side % patch:
        raise UserError(f"image_size={shown(image_size)} must be a multiple of the patch, {patch}.")
    return (side // patch) ** 2


def _add_null_row(arrays: dict[str, np.ndarray], layouts: Mapping[str, str]) -> None:
    """Add a row of zeros for no class to every label table."""
    for name, axes in layouts.items():
        if axes == "labels width":
            arrays[name] = np.concatenate([arrays[name], np.zeros_like(arrays[name][:1])])
    log(
        "The label table has no row for no class, so zeros are added. Classifier-free guidance "
        "needs fine-tuning with dropped labels first (config.objective.label_dropout)."
    )


def _check_copy(name: str, value: np.ndarray, first: np.ndarray, block: int) -> None:
    """Raise unless an array that a layout repeats in every block is the same in all of them."""
    if not np.array_equal(value, first):
        raise UserError(
            f"{name!r} differs from that of block 0, but our network has one embedding of time and "
            f"label for all blocks: weights trained separately in block {block} cannot be "
            "read."
        )


def _pad_sigma(rows: np.ndarray, patch: int) -> np.ndarray:
    """Add C rows of zeros after every C of rows [patch * patch * C, ...]."""
    pixels = rows.reshape(patch**2, -1, *rows.shape[1:])
    return np.concatenate([pixels, np.zeros_like(pixels)], 1).reshape(-1, *rows.shape[1:])


def _drop_sigma(rows: np.ndarray, patch: int) -> np.ndarray:
    """Undo `_pad_sigma`."""
    return rows.reshape(patch**2, 2, -1, *rows.shape[1:])[:, 0].reshape(-1, *rows.shape[1:])
