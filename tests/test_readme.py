"""What the manuals say of the code is so: paths, commands, tables, line counts."""

import pathlib
import re
import shlex

import pytest

from sg_jax import modes
from sg_jax.method.presets import PRESETS

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
CODE = ROOT / "sg_jax" / "README.md"
CONFIGS = ROOT / "configs" / "README.md"
MANUALS = [
    README,
    CODE,
    CONFIGS,
    ROOT / "launch" / "README.md",
    ROOT / "tests" / "benchmarks" / "README.md",
    ROOT / "tests" / "benchmarks" / "blocks.md",
    ROOT / "tests" / "benchmarks" / "peer.md",
    ROOT / "CHANGELOG.md",
    ROOT / "RESULTS.md",
]
FILE = re.compile(
    r"[\w.*{},/-]+/[\w.*{},-]+\.(?:py|sh|md|png|ipynb|yaml)\b|(?<![\w.])[\w-]+\.(?:py|sh|ipynb)\b"
)
FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_OURS = ("runs/", "matplotlib.")  # written by a run, or a module that is imported
ASIDE = (  # of method/
    "candidates", "checks", "control", "describing", "distillation", "early", "multistep",
    "presets", "projection", "stochastic", "stratified",
)  # fmt: skip
READ_ALONE = ("conditioning", "layers", "attention", "stack", "backbone", "dit")  # of models/


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def table(path, header):
    """Return the rows of the table under `| header ...` as lists of cells."""
    _, found, rest = path.read_text().partition(f"\n| {header} |")
    assert found, f"{name_of(path)} has no table that begins with | {header} |"
    lines = rest.splitlines()[2:]  # after the header and the rule under it
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def in_code(text):
    """Return the spans of code within lines of prose or tables."""
    return re.findall(r"`([^`]+)`", FENCED.sub("", text))


def commands(path):
    """Return the `python -m sg_jax...` commands of a manual as words, from blocks and in lines."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    found = re.findall(r"python -m sg_jax[^`\n]*", text)
    return [shlex.split(command.partition("#")[0]) for command in found]


def modes_of_the_code():
    found = getattr(modes, "MODES", None)
    if found is None:
        pytest.xfail("the modes have no table yet")
    return found


@pytest.fixture(params=MANUALS, ids=name_of)
def manual(request):
    return request.param


def test_the_first_page_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_lines_are_no_longer_than_a_page_is_wide(manual):
    prose = FENCED.sub("", manual.read_text())
    long = [
        line
        for line in prose.splitlines()
        if len(line) > 125 and not line.startswith(("|", "![", "    "))
    ]
    assert not long


def test_links_lead_somewhere(manual):
    links = re.findall(r"\]\(([^)#\s]+)", manual.read_text())
    missing = [link for link in links if "://" not in link and not (manual.parent / link).exists()]
    assert not missing


def test_files_exist(manual):
    """A file may be named from the root, from the manual's folder, from sg_jax/ or by its name."""
    text = manual.read_text()
    spans = [*in_code(text), *FENCED.findall(text)]
    missing = []
    for path in (path for span in spans for path in FILE.findall(span)):
        if path.startswith(NOT_OURS):
            continue
        places = (ROOT, manual.parent, ROOT / "sg_jax", ROOT / "configs", ROOT / "tests")
        pattern = path.replace("{", "*").replace("}", "*")
        found = any(next(place.glob(pattern), None) for place in places)
        if "/" not in path:
            found = found or next(ROOT.glob(f"[!.]*/**/{path}"), None)
        if not found:
            missing.append(path)
    assert not missing


def test_commands_name_configs_that_exist(manual):
    for words in commands(manual):
        for word, value in zip(words, [*words[1:], ""], strict=True):
            if word == "--config" and value != "...":
                assert (ROOT / value).is_file(), words


def test_commands_name_modes_that_exist(manual):
    known = modes_of_the_code()
    for words in commands(manual):
        for word, value in zip(words, [*words[1:], ""], strict=True):
            if word == "--mode":
                assert value in known, words


def test_the_presets_are_those_of_the_code():
    rows = {in_code(row[0])[0]: row[1:] for row in table(CONFIGS, "preset")}
    assert list(rows) == list(PRESETS)
    for name, (scale, strong, weak, _) in rows.items():
        preset = PRESETS[name]
        assert float(scale) == preset.scale, name
        assert strong == rate(preset.gamma_strong), name
        words = {"same": [], "null": ["no label"], "random": ["another label at random"]}
        words = words[preset.weak_label] + (["an early checkpoint"] if preset.weak_step else [])
        said = ", ".join([rate(preset.gamma_weak), *words]) if preset.weak_acts else ""
        assert weak == said, name


def test_the_presets_without_a_label_are_named():
    said = re.search(r"weak prediction has no label \((.*?)\)", CONFIGS.read_text(), re.DOTALL)[1]
    without = [name for name, preset in PRESETS.items() if preset.weak_label == "null"]
    assert sorted(in_code(said)) == sorted(without)


def rate(gamma):
    return f"γ {gamma:g}" if not isinstance(gamma, tuple) else f"γ {gamma[1]:g} → {gamma[2]:g}"


def test_the_configs_are_those_of_the_folder():
    named = [name for row in table(CONFIGS, "config") for name in in_code(row[0])]
    files = [path.name for path in (ROOT / "configs").glob("*.py")]
    assert sorted(named) == sorted(name for name in files if name != "cifar10_settings.py")


def test_commands_that_draw_name_the_text_encoder():
    """Without --config, a run's own word is not enough for it to be loaded (config/trust.py)."""
    path = ROOT / "configs" / "t2i_2b_all.py"
    text = path.read_text().partition('"""')[2].replace("\\\\\n", "")
    (encoder,) = re.findall(r'encoder="(.*?)"', text)
    drawn = [line for line in text.splitlines() if "--mode" in line and "--config " not in line]
    assert len(drawn) == 2
    assert all(f"--config.text.encoder={encoder} " in line for line in drawn)


def test_the_modes_are_those_of_the_code():
    known = modes_of_the_code()
    assert {in_code(row[0])[0] for row in table(CONFIGS, "`--mode`")} == set(known)


def test_the_reading_order_is_all_of_the_method():
    """The files of method/, and those of models/ that the published network needs."""
    rows = [(in_code(row[0])[0], int(row[1])) for row in table(CODE, "file")]
    method = {name_of(p) for p in (ROOT / "sg_jax" / "method").glob("[!_]*.py")}
    method -= {f"sg_jax/method/{name}.py" for name in ASIDE}
    models = {f"sg_jax/models/{name}.py" for name in READ_ALONE}
    lines = {
        path.removeprefix("sg_jax/"): len((ROOT / path).read_text().splitlines())
        for path in method | models
        if (ROOT / path).exists()
    }
    assert {path for path, _ in rows} == set(lines), f"lines now: {lines}"
    wrong = {p: lines[p] for p, said in rows if abs(said - lines[p]) > 5 + 0.15 * lines[p]}
    assert not wrong, f"lines now: {wrong}"
    for path in (README, CODE):
        said = int(re.search(r"about ([\d,]+) lines", path.read_text())[1].replace(",", ""))
        assert abs(said - sum(lines.values())) <= 0.08 * said, (name_of(path), sum(lines.values()))
