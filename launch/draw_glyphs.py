"""Draw the pictures of a colour font as a data set: CLASS/NAME.png, for config.data.name.

    python launch/draw_glyphs.py FONT FOLDER --side 64

The classes are ranges of Unicode that suit a font of emoji, such as OpenMoji's
(configs/openmoji_taef2.py). Flags and colours of skin are sequences of characters, which Pillow
joins with libraqm. Its wheels have that.
"""

import argparse
import itertools
import pathlib
import sys
import unicodedata
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont, features

FINER = 4  # a glyph is drawn this many times as large, and averaged
WIDTH = 1.25  # of a glyph, in em
MISSING = "\U0010fffd"  # no font has it
TONES = tuple(map(chr, range(0x1F3FB, 0x1F400)))  # of skin, after a hand or a person
LETTERS = tuple(map(chr, range(0x1F1E6, 0x1F200)))  # A to Z; two are a flag
TONED = ("hands", "people")
RANGES = {
    "animals": "1F400-1F43D 1F577 1F980-1F9AE 1FAB0-1FAB3 1FABC-1FABF 1FACE-1FACF",
    "clocks": "1F550-1F567",
    "faces": "1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A "
    "1F9D0 1FAE0-1FAE9",
    "food": "1F32D-1F330 1F33D 1F344-1F37F 1F382 1F950-1F96F 1F9C0-1F9CB 1FAD0-1FADC",
    "hands": "261D 270A-270D 1F446-1F450 1F4AA 1F590 1F595-1F596 1F64C 1F64F 1F90C 1F90F "
    "1F918-1F91F 1F932 1FAF0-1FAF8",
    "hearts": "2764 1F493-1F49D 1F49F 1F5A4 1F90D-1F90E 1F9E1 1FA75-1FA77",
    "people": "1F385 1F466-1F469 1F46E 1F470-1F478 1F47C 1F481-1F482 1F486-1F487 1F575 1F645-1F647 "
    "1F64B 1F64D-1F64E 1F926 1F934-1F937 1F977 1F9B8-1F9B9 1F9CF 1F9D1-1F9D5 1F9D9-1F9DD 1FAC5",
    "plants": "2618 1F331-1F33C 1F33E-1F343 1F490 1FAB4-1FABB",
    "signs": "2648-2653 267E-267F 26CE 26D4 2721 1F170-1F171 1F17E-1F17F 1F18E-1F19A 1F201-1F202 "
    "1F21A 1F22F 1F232-1F23A 1F4F4 1F51F-1F524 1F549 1F54E 1F6AB-1F6AD 1F6AF-1F6B1 1F6B3 "
    "1F6B7-1F6BE",
    "vehicles": "2708 1F680-1F6A4 1F6B2 1F6E5 1F6E9-1F6F5 1F6F8-1F6FC",
}


def glyphs() -> Iterator[tuple[str, str, str]]:
    """Yield the class, the name and the characters of each picture that a font may have."""
    for kind, ranges in RANGES.items():
        for each in ranges.split():
            first, _, last = each.partition("-")
            for code in range(int(first, 16), int(last or first, 16) + 1):
                name = unicodedata.name(chr(code), f"u{code:x}").lower().replace(" ", "_")
                yield kind, name, chr(code)
                for n, tone in enumerate(TONES if kind in TONED else (), 1):
                    yield kind, f"{name}_{n}", chr(code) + tone
    for pair in itertools.product(LETTERS, repeat=2):
        country = "".join(chr(ord("a") + LETTERS.index(letter)) for letter in pair)
        yield "flags", country, "".join(pair)


def picture(font: ImageFont.FreeTypeFont, text: str, side: int) -> Image.Image:
    """Return one glyph on white, [side, side] pixels."""
    image = Image.new("RGB", (side * FINER, side * FINER), "white")
    middle = side * FINER / 2
    ImageDraw.Draw(image).text(
        (middle, middle), text, "black", font, anchor="mm", embedded_color=True
    )
    return image.reduce(FINER)


def main(argv: list[str]) -> None:
    """Draw what `argv` names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("font", type=pathlib.Path, help="a colour font, .ttf or .otf")
    parser.add_argument("folder", type=pathlib.Path, help="is made; must not be there yet")
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    given = parser.parse_args(argv)
    if given.folder.exists():
        parser.error(f"{given.folder} is there: delete it, or give another folder.")
    if not 8 <= given.side <= 1024:
        parser.error(f"--side={given.side} must be from 8 to 1024.")
    try:
        font = ImageFont.truetype(str(given.font), round(given.side * FINER / WIDTH))
    except OSError as cause:
        parser.error(f"{given.font} is no font that can be read ({cause}).")
    if not features.check("raqm"):
        print("This Pillow has no libraqm: flags and colours of skin are left out.")
    empty = {picture(font, text, given.side).tobytes() for text in (" ", MISSING)}
    counts: dict[str, int] = {}
    for kind, name, text in glyphs():
        # Characters that the font does not join come out beside each other.
        if len(text) > 1 and font.getlength(text) > 1.5 * font.getlength(text[0]):
            continue
        drawn = picture(font, text, given.side)
        if drawn.tobytes() in empty:
            continue
        path = given.folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
        counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        parser.error(f"{given.font} has none of these characters.")
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{sum(counts.values()):,} pictures in {given.folder}: {found}.")


if __name__ == "__main__":
    main(sys.argv[1:])
