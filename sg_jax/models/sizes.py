"""The published sizes of DiT (arXiv 2212.09748) by name, and the largest sizes of any network."""

from typing import Any

from sg_jax.errors import SettingError, UserError, is_number, is_whole, nearest, plain, shown

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)
LARGEST = dict(  # far above what anyone trains, and small enough to be counted
    image_size=2**14, channels=2**12, num_classes=2**24, patch=2**14, width=2**17, depth=10_000,
    heads=2**17, decoder_width=2**17, decoder_depth=10_000, decoder_heads=2**17, state=2**16,
    expand=2**10, mlp_ratio=2**10,
)  # fmt: skip


def geometry(size: str) -> dict[str, int]:
    """Return depth, width, heads and patch of a published size such as "XL/2"."""
    names = [f"{s}/{p}" for s in SIZES for p in PATCHES]
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
