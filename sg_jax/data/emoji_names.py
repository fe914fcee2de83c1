"""What an emoji is called: the Unicode names of its characters, put together.

1F44B 1F3FE            waving hand sign, medium-dark skin tone
1F468 200D 1F680       man, rocket
1F1EB 1F1F7            flag fr
0031 FE0F 20E3         keycap 1
"""

import unicodedata

TONES = {
    0x1F3FB: "light skin tone",
    0x1F3FC: "medium-light skin tone",
    0x1F3FD: "medium skin tone",
    0x1F3FE: "medium-dark skin tone",
    0x1F3FF: "dark skin tone",
}
JOINER, COLOURED, KEYCAP = 0x200D, 0xFE0F, 0x20E3
LETTERS = range(0x1F1E6, 0x1F200)  # A to Z; two are a flag
TAGS = range(0xE0020, 0xE007F)  # letters of the flag of a region
LAST_TAG = 0xE007F
# The first character after each range, in order, and the class of emoji that begin in it.
CLASSES = (
    (0x80, "keycaps"),
    (0x2600, "symbols"),
    (0x27C0, "signs"),
    (0x1F1E6, "letters and symbols"),
    (0x1F200, "flags"),
    (0x1F300, "letters and symbols"),
    (0x1F400, "weather, plants and food"),
    (0x1F440, "animals"),
    (0x1F600, "people and things"),
    (0x1F650, "faces"),
    (0x1F680, "ornaments"),
    (0x1F700, "transport"),
    (0x1F900, "geometric"),
    (0x1FA00, "people, animals and food"),
    (0x110000, "more things"),
)


def codes_of(name: str) -> tuple[int, ...] | None:
    """Return the characters that a file name stands for, such as "1F44B-1F3FE".

    None if one is private or has no name.
    """
    try:
        codes = tuple(int(part, 16) for part in name.split("-"))
        named = [c for c in codes if c not in (JOINER, COLOURED, KEYCAP, LAST_TAG)]
        return codes if all(unicodedata.name(chr(c), "") for c in named) and named else None
    except (ValueError, OverflowError):
        return None


def class_of(codes: tuple[int, ...]) -> str:
    """Return the class of an emoji, by its first character."""
    return next(kind for last, kind in CLASSES if codes[0] < last)


def captions(codes: tuple[int, ...]) -> tuple[str, ...]:
    """Return what an emoji is called, and the same in a phrase."""
    name = _name(codes)
    return name, f"an emoji of {name}"


def _name(codes: tuple[int, ...]) -> str:
    if all(code in LETTERS for code in codes) and len(codes) > 1:
        return "flag " + "".join(chr(ord("a") + code - LETTERS.start) for code in codes)
    if KEYCAP in codes:
        return f"keycap {chr(codes[0])}"
    tags = "".join(chr(code - 0xE0000) for code in codes if code in TAGS)
    parts = []
    for code in codes:
        if code in TONES:
            parts.append(TONES[code])
        elif code not in (JOINER, COLOURED, LAST_TAG, *TAGS):
            parts.append(unicodedata.name(chr(code)).lower())
    return ", ".join([*parts, *([f"region {tags}"] if tags else [])])
