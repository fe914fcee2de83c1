"""The report: complete, self-contained, and safe to put any text in."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.report import Reference, format_table, write_report, write_table
from sg_jax.evaluation.results import SettingResult

PNG = b"\x89PNG\r\n\x1a\n and some pixels"
REFERENCE = Reference(
    real_images=1501,
    test_images=296,
    classifier_accuracy=0.9932,
    test_scores={"frechet": 0.7331, "accuracy": 0.9932},
)
OTHERS = ("fid", "sfid", "is", "fd_dinov2", "kid", "mind")
NAMES = ("frechet", "precision", "recall", "accuracy", "gflops_per_step", "images_per_second")


def row(name, description, *numbers, samples=896, **changes):
    scores = dict(zip(NAMES, numbers, strict=True))
    return SettingResult(name, description, scores, samples, **changes)


ROWS = [
    row("unguided", "no guidance", 0.583, 0.871, 0.843, 0.970, 114.42, 1430.0),
    row("cfg", "ω 1.5", 1.739, 0.921, 0.702, 0.999, 228.84, 715.0),
    row("sg", "ω 1.75, γ 0 / 0.75", 0.537, 0.899, 0.851, 0.975, 97.67, None),
]


class _Page(HTMLParser):
    """Collect visible text, bold text, table cells, and check that tags are closed in order."""

    def __init__(self, source):
        super().__init__()
        self.open, self.words, self.bold, self.tags, self.attributes = [], [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "b" in self.open:
            self.bold.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def _write(tmp_path, **changes):
    (tmp_path / "grid.png").write_bytes(PNG)
    options = {
        "title": "digits",
        "facts": {"Model": "6 blocks", "Steps": "3,000"},
        "rows": ROWS,
        "reference": REFERENCE,
        "command": "python -m sg_jax.main evaluate --workdir=runs/digits",
        "pictures": [(tmp_path / "grid.png", "images"), (tmp_path / "grid.png", "losses")],
        **changes,
    }
    path = write_report(tmp_path / "report.html", **options)
    source = path.read_text(encoding="utf-8")
    return source, _Page(source)


def test_report_says_what_was_measured_and_how(tmp_path):
    _, page = _write(tmp_path, notes=["Columns share noise."])
    for expected in (
        "896 generated images per setting against 1,501 real training images",
        "99.3% of 296",  # how far the feature network is to be trusted
        "is 0.733 with 296 test images",  # the floor
        "3 nearest neighbours",
        "Fréchet ↓",
        "Recall ↑",
        "GFLOPs/step",
        "6 blocks",
        "Columns share noise.",
        "python -m sg_jax.main evaluate --workdir=runs/digits",
    ):
        assert expected in page.text


def test_report_marks_the_best_of_each_column(tmp_path):
    _, page = _write(tmp_path)
    # Fréchet, precision, recall, accuracy, cost, speed; row by row.
    assert page.bold == ["1,430", "0.921", "99.9", "0.537", "0.851", "97.7"]


def test_equal_values_are_bold_together_or_not_at_all(tmp_path):
    better, same, worse = (
        row(name, "", value, 0.5, 0.5, 0.5, 1.0, 1.0)
        for name, value in (("a", 0.10001), ("b", 0.10002), ("c", 0.2))
    )
    assert _write(tmp_path, rows=[better, same, worse])[1].bold == ["0.100", "0.100"]
    assert _write(tmp_path, rows=[better])[1].bold == []


def test_report_needs_nothing_from_outside(tmp_path):
    source, page = _write(tmp_path)
    assert not re.search(r"https?:|//\w|@import|url\(", source)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    pictures = [value for name, value in page.attributes if name == "src"]
    inline = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert pictures == [inline, inline]
    assert not [value for name, value in page.attributes if name == "href"]


def test_report_escapes_text(tmp_path):
    evil = "<script>alert('x')</script> & \"{body}\" {title}"
    rows = [row(evil, evil, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0)]
    options = {"title": evil, "facts": {evil: evil}, "rows": rows, "command": evil}
    source, page = _write(tmp_path, **options, notes=[evil])
    assert "<script" not in source and "script" not in page.tags
    # Title and heading, name, description, note, fact and its name, command.
    assert page.text.count(evil) == 8


def test_report_can_do_without_pictures(tmp_path):
    source, _ = _write(tmp_path, pictures=())
    assert "<img" not in source


def test_report_refuses_what_it_cannot_show(tmp_path):
    with pytest.raises(UserError, match=r"absent\.png cannot be read"):
        _write(tmp_path, pictures=[(tmp_path / "absent.png", "")])
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match="not a PNG"):
        _write(tmp_path, pictures=[(tmp_path / "text.png", "")])
    with pytest.raises(UserError, match="rows is empty"):
        _write(tmp_path, rows=[])
    assert not (tmp_path / "report.html").exists()


def test_terminal_table_is_aligned_and_starred():
    lines = format_table(ROWS).split("\n")
    assert len(lines) == 3 + len(ROWS)
    points = {line.index(".") for line in lines[3:]}
    assert len(points) == 1
    assert lines[3].startswith("unguided ") and lines[3].endswith(" no guidance")
    assert [word for word in lines[5].split() if word.endswith("*")] == [
        "0.537*",
        "0.851*",
        "97.7*",
    ]
    assert " – " in lines[5]  # the speed that was not measured


def test_means_over_seeds_are_shown_with_their_deviations(tmp_path):
    spread = dict(frechet=0.0123, accuracy=0.004)
    rows = [dataclasses.replace(each, seeds=3, deviations=spread) for each in ROWS]
    lines = format_table(rows).split("\n")
    assert "0.537 ± 0.012*" in lines[5] and "97.5 ± 0.4 " in lines[5]
    _, page = _write(tmp_path, rows=rows)
    assert "0.537 ± 0.012" in page.bold
    assert "mean ± standard deviation over 3 seeds" in page.text
    (first, *_) = json.loads(write_table(tmp_path / "r.json", rows).read_text(encoding="utf-8"))
    assert first["frechet"] == 0.583 and first["seeds"] == 3 and first["deviations"] == spread


def test_json_table_holds_every_number_and_null_for_the_unknown(tmp_path):
    odd = row("ω", "", float("nan"), 0.5, 0.25, None, 1.0, float("inf"))
    path = write_table(tmp_path / "report.json", [ROWS[0], odd])
    first, second = json.loads(path.read_text(encoding="utf-8"))
    assert {name: value for name, value in first.items() if name not in OTHERS} == {
        "name": "unguided",
        "description": "no guidance",
        "frechet": 0.583,
        "precision": 0.871,
        "recall": 0.843,
        "accuracy": 0.97,
        "gflops_per_step": 114.42,
        "images_per_second": 1430.0,
        "samples": 896,
        "seeds": 1,
        "deviations": {},
    }
    assert second["frechet"] is second["accuracy"] is second["images_per_second"] is None
    assert second["name"] == "ω" and second["recall"] == 0.25


def test_a_metric_from_outside_is_in_table_file_and_report(tmp_path, monkeypatch):
    kid = dataclasses.replace(
        METRICS["frechet"], name="other", header="Other", unit="x 1000", factor=1000, better=-1,
        explanation="Of {real} images.", floor="Real ones have {floor}.",
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "other", kid)
    rows = [
        dataclasses.replace(r, scores={**r.scores, "other": 0.001 * i})
        for i, r in enumerate(ROWS, 2)
    ]
    lines = format_table([*rows, ROWS[0]]).split("\n")
    assert "Other ↓" in lines[0] and "x 1000" in lines[1]
    assert " 2.000* no guidance" in lines[3] and lines[-1].endswith(" –  no guidance")
    path = write_table(tmp_path / "report.json", [*rows, ROWS[0]])
    assert [r["other"] for r in json.loads(path.read_text())] == [0.002, 0.003, 0.004, None]
    scores = {**REFERENCE.test_scores, "other": 0.0005}
    _, page = _write(
        tmp_path, rows=rows, reference=dataclasses.replace(REFERENCE, test_scores=scores)
    )
    assert "Other ↓ Of 1,501 images. Real ones have 0.500." in page.text
    assert "2.000" in page.bold and "0.500" in page.text


def test_what_is_not_known_of_real_images_is_not_said(tmp_path):
    _, page = _write(tmp_path, reference=Reference(real_images=20_000, compared=10_000), command="")
    assert "real test images" not in page.text and "Make it again" not in page.text
    assert "among 10,000 real ones" in page.text and "against 20,000 real" in page.text
