"""Published sizes by name: those of DiT (arXiv 2212.09748), and the text-to-image network's.

Also the largest sizes of any network.
"""

from typing import Any

from sg_jax.errors import SettingError, UserError, is_number, is_whole, nearest, plain, shown

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)
WHOLE: dict[str, dict[str, Any]] = {  # sizes with more than depth, width, heads and patch
    # Krause et al. (arXiv 2601.01608): 2.5B parameters, 1,024 tokens of latents 64x64. The rank of
    # the modulation is not published; this one gives that number of parameters.
    "T2I-2B/2": dict(
        depth=34, width=2048, heads=16, patch=2, routes=((2, 30),), norm="rms", mlp="swiglu",
        positions="rotary", bias=False, modulation_rank=256,
    ),
}  # fmt: skip
WIDE = 2048  # from this width on, hidden channels of SwiGLU come in whole tiles
TILE = 128
LARGEST = dict(  # far above what anyone trains, and small enough to be counted
    image_size=2**14, channels=2**12, num_classes=2**24, patch=2**14, width=2**17, depth=10_000,
    heads=2**17, decoder_width=2**17, decoder_depth=10_000, decoder_heads=2**17, state=2**16,
    expand=2**10, mlp_ratio=2**10, modulation_rank=2**17, text_length=2**16, text_features=2**17,
    text_layers=1000, text_words=2**16,
)  # fmt: skip


def geometry(size: str) -> dict[str, Any]:
    """Return depth, width, heads and patch of a published size such as "XL/2".

    A size in `WHOLE` also gives other arguments of its network.
    """
    if size in WHOLE:
        return dict(WHOLE[size])
    names = [*(f"{s}/{p}" for s in SIZES for p in PATCHES), *WHOLE]
    if size not in names:
        raise UserError(
            f"config.model.size={shown(size)} must be one of {', '.join(names)}, or empty with "
            "depth, width, heads and patch given." + nearest(size, names)
        )
    name, patch = size.split("/")
    return dict(zip(("depth", "width", "heads"), SIZES[name], strict=True), patch=int(patch))


def checked(**values: Any) -> list[Any]:
    """Return sizes of a network, by their names in `LARGEST`, as Python numbers.

    Raises:
      UserError: one is not an int (mlp_ratio: a number), or out of range.
    """
    found = []
    for name, value in values.items():
        number, most = plain(value), LARGEST[name]
        if name == "mlp_ratio":
            if not is_number(number) or not 0 < number <= most:
                rule = f"must be a number above 0 and at most {most}."
                raise SettingError("config.model", name, value, rule)
        elif not is_whole(number) or not 1 <= number <= most:
            raise SettingError("config.model", name, value, f"must be an int in [1, {most}].")
        found.append(number)
    return found


def hidden(width: int, mlp_ratio: float, mlp: str) -> int:
    """Return the number of hidden channels of an MLP, or of one branch of a gated one.

    With GELU it is int(mlp_ratio D). SwiGLU has 2/3 as many, which is 8/3 D at the usual ratio of 4
    and costs the same; from D = 2048 on the number is rounded up to a multiple of 128, to fit the
    chip's tiles and tensor parallelism.
    """
    if mlp == "gelu":
        return int(width * mlp_ratio)
    exact = int(2 / 3 * int(width * mlp_ratio))
    return -(-exact // TILE) * TILE if width >= WIDE else exact
