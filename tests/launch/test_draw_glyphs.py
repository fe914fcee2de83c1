"""Pictures from a colour font, which is made here: a red face, and a flag that is a sequence."""

import subprocess
import sys

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder  # which matplotlib needs too
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, features
from stand_ins import ROOT


@pytest.fixture
def font(tmp_path):
    """A font in which U+1F600 is red, U+1F1E6 U+1F1E8 blue, and any other character empty."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), ["a", "c", "face", "flag", "square"]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({0x1F600: "face", 0x1F1E6: "a", 0x1F1E8: "c"})
    empty = TTGlyphPen(None).glyph()
    builder.setupGlyf(
        {".notdef": empty, "a": empty, "c": empty}
        | dict.fromkeys(("face", "flag", "square"), square)
    )
    builder.setupHorizontalMetrics({name: (1000, 100) for name in (".notdef", *names)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.setupCOLR({"face": [("square", 0)], "flag": [("square", 1)]}, version=0)
    builder.setupCPAL([[(1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)]])
    builder.addOpenTypeFeatures("feature ccmp { sub a c by flag; } ccmp;")
    builder.save(tmp_path / "font.ttf")
    return tmp_path / "font.ttf"


def draw(*arguments):
    script = ROOT / "launch" / "draw_glyphs.py"
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_glyphs_become_pictures_by_class(font, tmp_path):
    done = draw(font, tmp_path / "pictures", "--side", 32)
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(tmp_path / "pictures")): path for path in tmp_path.rglob("*.png")}
    wanted = {"faces/grinning_face.png": (255, 0, 0)}
    if features.check("raqm"):
        wanted["flags/ac.png"] = (0, 0, 255)
    assert found.keys() == wanted.keys() and f"{len(wanted)} pictures" in done.stdout
    for name, colour in wanted.items():
        pixels = np.asarray(Image.open(found[name]))
        assert pixels.shape == (32, 32, 3) and (pixels[0, 0] == 255).all()
        assert tuple(pixels[16, 16].tolist()) == colour


def test_what_cannot_be_drawn_is_named(font, tmp_path):
    (tmp_path / "none.ttf").write_bytes(b"no font")
    for words, arguments in (
        ("is there: delete it", (font, tmp_path)),
        ("--side=4 must be from 8", (font, tmp_path / "new", "--side", 4)),
        ("is no font that can be read", (tmp_path / "none.ttf", tmp_path / "new")),
    ):
        done = draw(*arguments)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
