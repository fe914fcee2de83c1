"""What is true of a scene, in words: several captions for each, none over 56 characters.

one thing         a circle / a red circle / a large red circle / a dark red circle
things alike      two triangles / two green triangles / two small green triangles
two things        a circle and a square / a red circle left of a blue square
                  a large red circle above a small blue square / ...
"""

from sg_jax.data.shapes_scenes import Scene, Thing, relation

NUMBERS = ("no", "one", "two", "three")
LONGEST = 56  # characters of a caption
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def plural(shape: str) -> str:
    """Return the word for several of a shape."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def named(*words: str) -> str:
    """Return words as one thing with its article; empty words are left out."""
    text = " ".join(word for word in words if word)
    return f"an {text}" if text[0] in "aeio" else f"a {text}"


def captions(scene: Scene) -> tuple[str, ...]:
    """Return the captions of a scene, each once; the plainest first."""
    first, count = scene.things[0], len(scene.things)
    if count == 1:
        found = [named(*words) for words in _descriptions(first)]
        found.append(f"one {first.colour} {first.shape}")
    elif len({thing.shape for thing in scene.things}) == 1:
        several = plural(first.shape)
        found = [
            " ".join([NUMBERS[count], *(word for word in words[:-1] if word), several])
            for words in _descriptions(first)
        ]
    else:
        found = _of_two(*scene.things)
    return tuple(dict.fromkeys(found))


def _descriptions(thing: Thing) -> list[tuple[str, ...]]:
    """Return what a thing may be called, from its shape alone to its shape, colour and more."""
    colour, shape = thing.colour, thing.shape
    found: list[tuple[str, ...]] = [(shape,), (colour, shape)]
    if thing.size:
        found += [(thing.size, shape), (thing.size, colour, shape)]
    if thing.brightness:
        found.append((thing.brightness, colour, shape))
    return found


def _of_two(first: Thing, second: Thing) -> list[str]:
    found = []
    for a, b in ((first, second), (second, first)):
        where = relation(a, b)
        plain, other = named(a.colour, a.shape), named(b.colour, b.shape)
        found += [
            f"{named(a.shape)} and {named(b.shape)}",
            f"{plain} and {other}",
            f"{named(a.shape)} {where} {named(b.shape)}",
            f"{plain} {where} {other}",
        ]
        for one, two in ((a.size, b.size), (a.brightness, b.brightness)):
            if one or two:  # both are given, so that a network can learn what goes with what
                whole, rest = named(one, a.colour, a.shape), named(two, b.colour, b.shape)
                found.append(f"{whole} {where} {rest}")
                found.append(f"{whole} and {rest}")
    return found
