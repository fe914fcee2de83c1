"""The published sizes of DiT (arXiv 2212.09748), by name."""

from sg_jax.errors import UserError, nearest

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)


def geometry(size: str) -> dict[str, int]:
    """Return depth, width, heads and patch of a published size such as "XL/2"."""
    names = [f"{s}/{p}" for s in SIZES for p in PATCHES]
    if size not in names:
        raise UserError(
            f"config.model.size={size!r} must be one of {', '.join(names)}, or empty with depth, "
            f"width, heads and patch given." + nearest(size, names)
        )
    name, patch = size.split("/")
    return dict(zip(("depth", "width", "heads"), SIZES[name], strict=True), patch=int(patch))
