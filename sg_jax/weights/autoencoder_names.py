"""The published names of autoencoders' weights, and the sizes that follow from them.

AutoencoderKL is published under three sets of names: those of diffusers now, of diffusers before
2023, and of latent diffusion (LDM), whose decoder counts its levels from the other end. Tiny ones
are rows of numbered layers. Our names are paths such as encoder/levels/0/blocks/1/conv1/kernel.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from sg_jax.encoders import kl, tae
from sg_jax.errors import UserError, shown
from sg_jax.weights.filling import Shapes


@dataclasses.dataclass(frozen=True)
class Style:
    """A set of names: how the parts of a half are called."""

    levels: tuple[str, str]  # of the encoder, of the decoder
    blocks: str
    samples: tuple[str, str]
    middle: tuple[str, str]  # both blocks
    attention: str
    parts: Mapping[str, str]  # of the attention
    shortcut: str
    norm: str  # the last one
    reverse: bool  # whether the decoder's last level is number 0


NOW = Style(
    levels=("down_blocks", "up_blocks"),
    blocks="resnets",
    samples=("downsamplers.0.conv", "upsamplers.0.conv"),
    middle=("mid_block.resnets.0", "mid_block.resnets.1"),
    attention="mid_block.attentions.0",
    parts={
        "norm": "group_norm",
        "query": "to_q",
        "key": "to_k",
        "value": "to_v",
        "out": "to_out.0",
    },
    shortcut="conv_shortcut",
    norm="conv_norm_out",
    reverse=False,
)
BEFORE = dataclasses.replace(
    NOW,
    parts={n: n for n in ("query", "key", "value")} | {"norm": "group_norm", "out": "proj_attn"},
)
LDM = Style(
    levels=("down", "up"),
    blocks="block",
    samples=("downsample.conv", "upsample.conv"),
    middle=("mid.block_1", "mid.block_2"),
    attention="mid.attn_1",
    parts={"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"},
    shortcut="nin_shortcut",
    norm="norm_out",
    reverse=True,
)
HALVES = ("encoder", "decoder")
QUANT = {"encoder": "quant_conv", "decoder": "post_quant_conv"}
CONVS = {"0": "0", "1": "2", "2": "4"}  # of a tiny block
POOL = {"into": "0", "norm": "1", "out": "3"}


def prefix_of(names: Iterable[str], label: str) -> str | None:
    """Return what stands before the names of an AutoencoderKL, or None if there is none."""
    pattern = re.compile(r"(.*?)(?:encoder|decoder)\.conv_in\.weight")
    found = {match[1] for match in map(pattern.fullmatch, names) if match}
    for usual in ("", "first_stage_model.", "vae.", "model."):
        if usual in found:
            return usual
    if len(found) > 1:
        raise UserError(
            f"{label} has several autoencoders, under {', '.join(map(shown, sorted(found)[:5]))}: "
            "give a mapping with only one of them."
        )
    return next(iter(found), None)


def style_of(names: Iterable[str]) -> Style:
    """Return the set that some names, without their prefix, belong to."""
    text = "\n".join(names)
    if re.search(r"^(encoder|decoder)\.(mid\.|down\.|up\.|norm_out)", text, re.M):
        return LDM
    return BEFORE if ".attentions.0.proj_attn." in text else NOW


def kl_half(half: str, style: Style, shapes: Shapes, groups: int, label: str) -> kl.Half | None:
    """Return the sizes of an encoder or a decoder, or None if there are no weights of it."""
    levels = style.levels[half == "decoder"]
    found: dict[int, set[int]] = {}
    pattern = re.compile(rf"{half}\.{levels}\.(\d{{1,9}})\.{style.blocks}\.(\d{{1,9}})\.")
    for match in filter(None, map(pattern.match, shapes)):
        found.setdefault(int(match[1]), set()).add(int(match[2]))
    if not found:
        return None
    counts = [len(found.get(i, ())) for i in range(len(found))]
    if any(found.get(i) != set(range(n)) or not n for i, n in enumerate(counts)):
        raise UserError(
            f"{label} has no complete row of blocks {half}.{levels}: some are missing, or it is "
            "damaged."
        )
    paths = [f"{half}/levels/{i}/blocks/0/conv1/kernel" for i in range(len(counts))]
    names = [kl_name(path, style, len(counts)) for path in paths]
    if style.reverse and half == "decoder":
        counts.reverse()
    last = f"{half}/last/kernel" if half == "encoder" else f"{half}/first/kernel"
    width = _axis(shapes, kl_name(last, style, len(counts)), half == "decoder", label)
    outer = f"{half}/first/kernel" if half == "encoder" else f"{half}/last/kernel"
    return kl.Half(
        channels=tuple(_axis(shapes, name, 0, label) for name in names),
        blocks=tuple(counts),
        latents=width // 2 if half == "encoder" else width,
        images=_axis(shapes, kl_name(outer, style, len(counts)), half == "encoder", label),
        attention=kl_name(f"{half}/attention/query/kernel", style, len(counts)) in shapes,
        quant=f"{QUANT[half]}.weight" in shapes,
        groups=groups,
    )


def _axis(shapes: Shapes, name: str, axis: int, label: str) -> int:
    """Return an axis of a convolution's kernel."""
    if name not in shapes or len(shapes[name]) < 2:
        there = f"of shape {shapes[name]}" if name in shapes else "missing"
        raise UserError(
            f"{label}: {name!r} is {there}, but it must be the kernel of a convolution."
        )
    return shapes[name][axis]


def kl_name(path: str, style: Style, levels: int) -> str:
    """Return the published name of our path, such as "decoder/levels/0/sample/bias"."""
    half, kind, *rest, leaf = path.split("/")
    decoder, end = half == "decoder", "bias" if leaf == "bias" else "weight"
    if kind == "quant":
        return f"{QUANT[half]}.{end}"
    if kind == "levels":
        number = levels - 1 - int(rest[0]) if decoder and style.reverse else rest[0]
        inner = style.samples[decoder] if rest[1] == "sample" else f"{style.blocks}.{rest[2]}"
        middle = f"{style.levels[decoder]}.{number}.{inner}"
        rest = rest[3:]
    elif kind == "middle":
        middle, rest = style.middle[int(rest[0])], rest[1:]
    elif kind == "attention":
        middle, rest = f"{style.attention}.{style.parts[rest[0]]}", []
    else:
        middle = {"first": "conv_in", "last": "conv_out", "norm": style.norm}[kind]
    rest = [style.shortcut if name == "shortcut" else name for name in rest]
    return ".".join((half, middle, *rest, end))


def tae_rows(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the numbered names by what stands before their number: "", "decoder.layers.", ..."""
    rows: dict[str, list[str]] = {}
    for name in names:
        layer = r"(\d{1,9})\.(?:weight|bias|(?:conv|pool)\.\d\.(?:weight|bias)|skip\.weight)"
        if match := re.fullmatch(rf"(.*?){layer}", name):
            rows.setdefault(match[1], []).append(match[2])
    return {prefix: sorted(set(found), key=int) for prefix, found in rows.items()}


def tae_row(
    prefix: str, numbers: list[str], shapes: Shapes, label: str
) -> tuple[str, tuple[tae.Piece, ...]]:
    """Return which half a row is, and its layers.

    Args:
      prefix: what stands before the numbers.
      numbers: the numbers of the layers, in their order.
      shapes: by name.
      label: of the file, for messages.
    """
    pieces = []
    for i, number in enumerate(numbers):
        name = f"{prefix}{number}"
        block = f"{name}.conv.0.weight" in shapes
        outputs, inputs = (
            _axis(shapes, f"{name}.conv.0.weight" if block else f"{name}.weight", axis, label)
            for axis in (0, 1)
        )
        resample = not block and f"{name}.bias" not in shapes
        if (i in (0, len(numbers) - 1)) == (block or resample):
            raise UserError(
                f"{label}: {name!r} does not fit a tiny autoencoder of SD, SDXL, SD3, FLUX.1 or "
                "FLUX.2: rows begin and end with a convolution that has a bias, and those between "
                "have none."
            )
        pool = f"{name}.pool.0.weight" in shapes
        pieces.append(tae.Piece(inputs, outputs, block, resample, pool))
    images = (pieces[0].inputs == 3, pieces[-1].outputs == 3)
    if images[0] == images[1]:
        raise UserError(
            f"{label}: the row {prefix!r} leads from {pieces[0].inputs} to {pieces[-1].outputs} "
            "channels, but an encoder begins with the 3 of an image, and a decoder ends with them."
        )
    return HALVES[images[1]], tuple(pieces)


def tae_name(path: str, prefix: str, numbers: list[str]) -> str:
    """Return the published name of our path, such as "encoder/layers/3/convs/1/kernel"."""
    _, _, layer, *rest, leaf = path.split("/")
    inner = {
        "convs": lambda: f"conv.{CONVS[rest[1]]}.",
        "pool": lambda: f"pool.{POOL[rest[1]]}.",
        "shortcut": lambda: "skip.",
    }[rest[0]]() if rest else ""  # fmt: skip
    return f"{prefix}{numbers[int(layer)]}.{inner}{'bias' if leaf == 'bias' else 'weight'}"
