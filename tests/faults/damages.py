"""Ways in which a file can be damaged."""

import pathlib
import random

PICTURE = pathlib.Path(__file__).parents[2] / "launch" / "quickstart.png"


def truncate(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path, rng: random.Random) -> None:
    """Flip one bit somewhere."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def delete(path: pathlib.Path, rng: random.Random) -> None:
    path.unlink()


def replace(path: pathlib.Path, rng: random.Random) -> None:
    """Put a file of another kind in its place: a picture, or a text where a picture was."""
    path.write_bytes(b"Not what was here.\n" if path.suffix == ".png" else PICTURE.read_bytes())


DAMAGE = {"truncated": truncate, "one bit flipped": flip, "deleted": delete, "foreign": replace}
