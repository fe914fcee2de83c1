"""The run of someone else: nothing in its folder is executed, leaves it, or takes much memory.

A folder is made as its owner could make it, not as a command would: values that no command writes,
pickles, links, headers and archives that promise terabytes. Commands on it end well or with one
sentence, and what lies beside the folder stays as it was.
"""

import io
import itertools
import json
import os
import pathlib
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import tensorstore
from harness import is_one_sentence
from remains import contents, results

import sg_jax
from sg_jax.config import parsing, record, trust
from sg_jax.errors import UserError
from sg_jax.evaluation import compare, real, scored, table
from sg_jax.evaluation.features import Scorer
from sg_jax.main import main
from sg_jax.method.guidance import Guidance
from sg_jax.runs.records import read_metrics

MODEST = 30e6  # bytes that reading a foreign file may take at once, beside the file itself
KEY = table.Key(Guidance(), "euler", 40, 500, 5000, "0badcafe", 0, 3000)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A folder with only a config.json, and the contents of what lies beside it, by name."""
    run, beside = tmp_path / "run", tmp_path / "home"
    beside.mkdir()
    (beside / "kept").write_text("mine")
    monkeypatch.setenv("HOME", str(beside))
    monkeypatch.chdir(beside)
    record.prepare(str(run), parsing.load(str(record_of("digits"))), tuple("0123456789"), False)
    return run


def record_of(name):
    return pathlib.Path(__file__).parents[2] / "configs" / f"{name}.py"


def edit(run, change):
    path = run / "config.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


def put(dotted, value):
    """Return what sets a value of the config."""

    def change(saved):
        *sections, last = dotted.split("/")
        node = saved["config"]
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value

    return change


NAMES = ("/tmp/x", "../x", "..", ".x", "a/b", "a\\b", "x" * 101, "", "a\0b", "a\nb", "~", "$(id)")
PLACES = ("/elsewhere", "../home", "run/../../home", "~/x", "link/x", "gs://elsewhere/x")
PATHS = (
    ("features/path", "evaluate"),
    ("features/path", "sweep"),
    ("features/path", "tune"),
    ("features/path", "train"),
    ("train/init_from", "train"),
    ("guidance/sg/weak_workdir", "sample"),
    ("guidance/sg/weak_workdir", "diversity"),
    ("data/data_dir", "sample"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name(foreign, name):
    edit(foreign, lambda saved: saved["config"]["guidance"].update({name: {"scale": 2.0}}))
    edit(foreign, put("sample/guidance", name))
    before = contents(foreign.parent)
    for call in (
        lambda: main(["sg_jax", "--mode=sample", f"--workdir={foreign}"]),
        lambda: sg_jax.settings(foreign),
        lambda: sg_jax.load(foreign),
    ):
        with pytest.raises(UserError, match="cannot name a setting") as raised:
            call()
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    assert contents(foreign.parent) == before


@pytest.mark.parametrize("key, mode", PATHS)
@pytest.mark.parametrize("place", PLACES)
def test_a_path_out_of_the_run_is_not_followed(foreign, key, mode, place):
    (foreign / "link").symlink_to(foreign.parent / "home")
    if key == "data/data_dir" and "://" in place:
        pytest.skip("a bucket is asked whether the data set is there")
    place = place.replace("link", str(foreign / "link")).replace("run", str(foreign))
    edit(foreign, put(key, place))
    before = contents(foreign.parent)
    with pytest.raises(UserError) as raised:
        main(["sg_jax", f"--mode={mode}", f"--workdir={foreign}"])
    said = f"--config.{key.replace('/', '.')}="
    assert "is outside the run" in str(raised.value) and said in str(raised.value)
    assert contents(foreign.parent) == before


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.slow
def test_nothing_is_executed(lab, whole, tmp_path):
    """Pickles where arrays are expected, modules with the names of libraries, old programs."""
    run, canary = lab.copy(whole, tmp_path / "run"), tmp_path / "executed"
    pickled = np.array([Canary(canary)], object)
    for path in (run / "samples" / "scored").iterdir():
        np.save(path, pickled, allow_pickle=True)
    for name in ("classifier.npz", "real.npz"):
        with np.load(run / name) as file:
            parts = {key: file[key] for key in file.files}
        first = next(key for key in parts if key not in ("fingerprint", "about"))
        np.savez(run / name, **{**parts, first: pickled})
    (run / "programs").mkdir()
    for library in ("jax", "numpy", "sitecustomize", "config", "digits"):
        for folder in (run, run / "programs", run / "samples"):
            (folder / f"{library}.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    (run / "scores.csv").unlink()  # so that it scores again
    said = lab.run(run)
    assert not canary.exists()
    assert "classifier.npz cannot be read" in said and "cannot be read" in said
    found = results(run)
    for name, value in results(whole).items():
        if name.startswith(("samples/scored", "classifier.npz", "real.npz")):
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", trust.FOLDERS)
def test_a_link_out_of_the_run_is_not_written_through(lab, whole, tmp_path, name):
    run, beside = lab.copy(whole, tmp_path / "run"), tmp_path / "beside"
    beside.mkdir()
    if (run / name).exists():
        shutil.move(run / name, beside / "moved")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(beside / "moved" if (beside / "moved").exists() else beside)
    before = contents(beside)
    mode = "sample" if name.startswith("samples") else "train"
    command = lab.start(run, f"--mode={mode}", "--config.train.steps=16")
    assert command.wait() != 0 and is_one_sentence(command.text()), command.text()
    assert "outside the run" in command.text() and contents(beside) == before


def test_a_linked_file_is_replaced_and_not_followed(tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    mine.write_text("mine\n")
    (run / "scores.csv").symlink_to(mine)
    with pytest.raises(UserError, match=r"scores\.csv"):  # it is no table
        table.add(run, {KEY: {"frechet": 1.0}})
    mine.write_text("")
    table.add(run, {KEY: {"frechet": 1.0}})
    assert mine.read_text() == "" and list(table.read(run)) == [KEY]


# Memory.


def promising(shape, dtype="<f8"):
    """Return a .npy file of a few bytes whose header promises an array of this shape."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + b"\0" * 64


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def zeros(size):
    file = io.BytesIO()
    np.save(file, np.zeros(size, np.uint8))
    return file.getvalue()


BOMBS = {
    "promises terabytes": lambda: archive({"about.npy": promising((10**12,))}),
    "promises terabytes of text": lambda: archive({"about.npy": promising((10**9,), "<U1000")}),
    "unpacks to 100 MB": lambda: archive({"a.npy": zeros(100_000_000)}, zipfile.ZIP_DEFLATED),
    "unpacks, with one more name": lambda: archive(
        {"fingerprint.npy": promising((2,)), "a.npy": zeros(100_000_000)}, zipfile.ZIP_DEFLATED
    ),
}


def most_memory(function):
    """Return the most bytes that a function held, and what it returned or raised."""
    tracemalloc.start()
    try:
        result = function()
    except Exception as error:
        result = error
    finally:
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return held, result


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_takes_what_it_holds(tmp_path, bomb):
    path = tmp_path / "classifier.npz"
    path.write_bytes(BOMBS[bomb]())
    size = path.stat().st_size
    held, found = most_memory(lambda: Scorer.load(path))
    assert isinstance(found, UserError) and held < MODEST + 3 * size
    held, found = most_memory(lambda: real.load(path, {}, None))
    assert found is None and held < MODEST + 3 * size


def test_kept_images_take_what_they_hold(tmp_path):
    path = scored.images_path(tmp_path, KEY)
    path.parent.mkdir(parents=True)
    for content in (promising((10**12, 8, 8, 1), "|u1"), promising((10**9, 8, 8, 1), "|u1")):
        path.write_bytes(content)
        held, found = most_memory(lambda: scored.images_of(tmp_path, KEY, shown=1, shape=(8, 8, 1)))
        assert found is None and held < MODEST


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "content",
    [DEEP, '{"config": ' + DEEP + "}", "9" * 100_000, '{"config": {"model": {"depth": 1e999}}}'],
)
def test_text_that_is_deep_or_long_is_refused_at_once(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    held, found = most_memory(lambda: sg_jax.settings(tmp_path))
    assert isinstance(found, UserError) and held < MODEST and len(str(found)) < 1000
    (tmp_path / "metrics.jsonl").write_text(content + "\n")
    held, found = most_memory(lambda: read_metrics(str(tmp_path)))
    assert found == [] and held < MODEST
    (tmp_path / "scores.csv").write_text(f"steps,interval\n20,{content}\n")
    held, found = most_memory(lambda: table.read(tmp_path))
    assert isinstance(found, UserError) and held < MODEST and len(str(found)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [dict(width=2**17, depth=10_000), dict(num_classes=2**24)])
def test_a_network_of_any_size_is_not_made_to_be_compared(lab, whole, tmp_path, sizes):
    run = lab.copy(whole, tmp_path / "run")
    for name, value in sizes.items():
        edit(run, put(f"model/{name}", value))
    held, found = most_memory(lambda: sg_jax.load(run))
    assert isinstance(found, UserError) and held < 10 * MODEST


@pytest.mark.slow
def test_a_checkpoint_takes_what_it_holds(lab, whole, tmp_path):
    """Its arrays say that they are larger than what is stored of them."""
    run, classes = lab.copy(whole, tmp_path / "run"), 2**24
    edit(run, put("model/num_classes", classes))
    step = run / "checkpoints" / "12"
    (step / "sha256.json").unlink()
    item = step / "ema"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{item}/"}).result()
    key = "label_embedding/zarr.json"
    array = json.loads(store.read(key).result().value)
    array["shape"][0] = classes + 1
    store.write(key, json.dumps(array).encode()).result()
    for path in (item / "_METADATA", item / "array_metadatas" / "process_0"):
        text = path.read_text()
        place = text.index("label_embedding")
        path.write_text(text[:place] + text[place:].replace("[11, 16]", f"[{classes + 1}, 16]"))
    with pytest.raises(UserError, match=r"ema would take 1\.1 GB of memory, from 0\.\d MB"):
        sg_jax.load(run, step=12)


# What is shown.

EXTREMES = (1.0, 0.0, -1.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), None)


def test_a_report_shows_any_numbers_and_names(tmp_path):
    """Tables and records by others, compared: markup and TeX are text, and no number is too odd."""
    runs, values = [], itertools.cycle(EXTREMES)
    settings = (
        Guidance(),
        Guidance(1.5, 0.0, 0.75),
        Guidance(1.5, weak_step=5, weak_workdir=r"<script>alert(1)</script> $\frac{$"),
    )
    for name in (r"$\x$ <b>", "ordinary"):
        rows = {}
        for guidance, checkpoint, seed in itertools.product(settings, (1000, 3000), (0, 1)):
            key = table.Key(guidance, "$\\z$", 40, 500, 5000, "0badcafe", seed, checkpoint)
            rows[key] = {n: next(values) for n in ("frechet", "gflops_per_step", "accuracy")}
        table.write(tmp_path / name, rows)
        lines = [
            {"step": i * 100, "loss": next(values), "steps_per_second": next(values)}
            for i in range(40)
        ]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        runs.append(tmp_path / name)
    *_, page = compare.run(runs, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text and "<b>" not in text.partition("<h1>")[2].partition("</h1>")[0]
    assert "&lt;script&gt;" in text
