"""scores.csv: what is equal, what reads back, and what a damaged file gives."""

import csv
import dataclasses
import functools
import pathlib
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import table
from sg_jax.evaluation.metrics import METRICS
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.programs.sampling import sample

KEY = table.Key(Guidance(1.5, 0.0, 0.25), "euler", 40, 12, 40, "00000012", 0, 7)
NAMES = ("frechet", "precision", "recall", "accuracy", "gflops_per_step", "images_per_second")
MEASURED = dict(zip(NAMES, (1 / 3, 0.1, 0.2, 1.0, 1e-17 / 3, 123.456), strict=True))
OTHERS = (
    *PRESETS.values(),
    Guidance(2.0, ("piecewise", (0.0, 0.1), (1.0, 0.3)), 0.9, interval=(0.2, 0.8), ids="nested"),
    Guidance(("linear", 1.0, 2.0), weak_step=5, weak_workdir="runs/other, earlier"),
    Guidance(
        2.0, 0.0, 0.5, ids="borrowed", skip=(0, 2), skip_scale=("linear", 1.0, 2.0), refresh=3,
        inner_scale=1.5, parallel=0.5, norm=2.5, momentum=-0.5, rescale=True, zero_steps=1,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def draw(make_dit, mesh_of):
    """Return what draws images of a setting, once for each."""
    model = make_dit(depth=2, routes=((1, 1),))
    how = dict(steps=2, seed=3, batch_size=2, mesh=mesh_of(1, 1))
    return functools.cache(lambda guidance: sample(model, np.arange(2), guidance, **how))


def test_every_setting_reads_back_to_the_last_digit(tmp_path):
    rows = {dataclasses.replace(KEY, guidance=table.canonical(g)): MEASURED for g in OTHERS}
    assert len(rows) == len(OTHERS)
    table.write(tmp_path, rows)
    assert table.read(tmp_path) == rows
    assert [key.digest for key in table.read(tmp_path)] == [key.digest for key in rows]
    assert table.read(tmp_path / "none") == {}


def test_images_of_another_decoder_are_others(tmp_path):
    """The digest of images without a decoder is that of before there were any."""
    keys = [
        dataclasses.replace(KEY, decoder=d, decoder_name=f"/{d}, x.pt") for d in ("", "1f", "2e")
    ]
    assert len({*keys, KEY}) == 3 and len({key.digest for key in keys}) == 3
    assert keys[0] == KEY and keys[0].digest == KEY.digest == "a084f7b5"
    table.write(tmp_path, dict.fromkeys(keys, MEASURED))
    assert [key.decoder_name for key in table.read(tmp_path)] == [
        "/, x.pt",
        "/1f, x.pt",
        "/2e, x.pt",
    ]
    moved = dataclasses.replace(keys[1], decoder_name="elsewhere")
    assert table.read(tmp_path)[moved] == MEASURED


def test_a_file_cut_short_anywhere_keeps_its_whole_rows(tmp_path):
    path = table.write(tmp_path, {KEY: MEASURED})
    whole = path.read_text()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert table.read(tmp_path) == {}


@pytest.mark.parametrize(
    "cell, text",
    [
        ("steps", "[1]"), ("seed", "1.5"), ("seed", "{}"), ("seed", "9" * 5000),
        ("scale", "(" * 999), ("scale", "(((" * 9), ("interval", "__import__('os')"),
        ("steps", "9" * 20_000), ("frechet", "[]"), ("segments", "1" + "0" * 400),
    ],
)  # fmt: skip
def test_a_row_by_someone_else_is_named_with_the_remedy(tmp_path, cell, text):
    path = table.write(tmp_path, {KEY: MEASURED})
    (row,) = csv.DictReader(path.open())
    row[cell] = text
    with path.open("a") as file:
        csv.DictWriter(file, row).writerow(row)
    content = path.read_bytes()
    with pytest.raises(
        UserError, match=r"scores\.csv, line 3 .*Delete that line, or move"
    ) as raised:
        table.read(tmp_path)
    assert len(str(raised.value)) < 1000
    with pytest.raises(UserError):
        table.add(tmp_path, {KEY: MEASURED})
    assert path.read_bytes() == content


def test_a_figure_that_was_not_measured_is_named(tmp_path):
    path = table.write(tmp_path, {KEY: MEASURED})
    head, row = path.read_text().splitlines()
    names, cells = head.split(","), next(csv.reader([row]))
    for i in range(names.index("check")):
        for changed in ([*cells[:i], cells[i] + "1", *cells[i + 1 :]], cells):
            others = names if changed is not cells else [*names[:i], "other", *names[i + 1 :]]
            with pathlib.Path(path).open("w", newline="") as file:
                csv.writer(file).writerows([others, changed])
            with pytest.raises(UserError, match=r"scores\.csv, line 2 is not a row of scores"):
                table.read(tmp_path)
    cells[names.index("recall")] = "0.875"
    cells[names.index("check")] = ""  # by someone who means it
    with pathlib.Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([names, cells])
    assert table.read(tmp_path) == {KEY: {**MEASURED, "recall": 0.875}}


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"steps\n" + b"x" * 200_000 + b"\n"])
def test_what_is_no_text_or_no_table_is_named(tmp_path, content):
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"scores\.csv"):
        table.read(tmp_path)


def test_rows_that_are_added_at_the_same_time_are_all_kept(tmp_path):
    def add(first):
        for seed in range(first, first + 5):
            table.add(tmp_path, {dataclasses.replace(KEY, seed=seed): MEASURED})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(0, 40, 5)))
    assert {key.seed for key in table.read(tmp_path)} == set(range(40))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_what_is_measured_now_is_added_to_what_was(tmp_path):
    table.add(tmp_path, {KEY: {**MEASURED, "recall": None}})
    found = table.add(tmp_path, {KEY: {"recall": 0.5}})
    assert found == table.read(tmp_path) == {KEY: {**MEASURED, "recall": 0.5}}


def test_rows_that_were_read_before_are_not_parsed_again(tmp_path, monkeypatch):
    keys = [dataclasses.replace(KEY, seed=seed) for seed in range(1000, 1004)]
    table.add(tmp_path, dict.fromkeys(keys[:3], MEASURED))
    parsed, canonical = [], table.canonical
    monkeypatch.setattr(table, "canonical", lambda g: parsed.append(g) or canonical(g))
    for _ in range(2):
        assert len(table.read(tmp_path)) == len(parsed) == 3
    assert len(table.add(tmp_path, {keys[3]: MEASURED})) == 4 and len(parsed) == 3


def test_a_line_that_is_cut_off_is_told(tmp_path, capsys):
    path = table.write(tmp_path, {KEY: MEASURED})
    table.read(tmp_path, tell=True)
    assert "ends in the middle" not in capsys.readouterr().out
    path.write_text(path.read_text()[:-5])
    assert table.read(tmp_path, tell=True) == {}
    assert f"{path} ends in the middle of a line" in capsys.readouterr().out


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="none of the columns"):
        table.read(tmp_path)
    with pytest.raises(UserError, match="move it away"):
        table.write(tmp_path, {KEY: MEASURED})
    path.unlink()
    table.write(tmp_path, {KEY: MEASURED})
    row = path.read_text().splitlines()[1]
    for broken in ("0.5,nonsense", row.replace("1.5", "-1.5"), row.replace("same", "nul")):
        table.write(tmp_path, {KEY: MEASURED})
        path.write_text(path.read_text() + broken + "\n")
        with pytest.raises(UserError, match="line 3"):
            table.read(tmp_path)


# As it was written when columns had to be these, in this order; the last row for other segments.
OLD = """\
scale,gamma_strong,gamma_weak,weak_label,weak_step,weak_workdir,interval,ids,segments,sampler,steps,\
samples,references,features,seed,checkpoint,frechet,precision,recall,accuracy,gflops_per_step,\
images_per_second
1.5,0.0,0.25,same,0,,"(0.0, 1.0)",uniform,8,euler,40,12,40,00000012,0,7,0.5,0.1,0.2,1.0,0.25,123.0
2.0,"('cosine', 0.0, 0.5)",0.9,null,0,,"(0.0, 1.0)",nested,4,euler,40,12,40,00000012,0,7,1.5,0.1,\
0.2,1.0,0.25,123.0
1.0,0.5,0.0,same,0,,"(0.0, 1.0)",nested,4,euler,40,12,40,00000012,0,7,2.5,0.1,0.2,1.0,0.25,123.0
"""


def test_an_old_table_reads_as_before_and_its_keys_are_what_is_asked_for_now(tmp_path):
    (tmp_path / "scores.csv").write_text(OLD)
    rows = table.read(tmp_path)
    assert [row["frechet"] for row in rows.values()] == [0.5, 1.5, 2.5]
    first, scheduled, unguided = rows
    assert first == KEY and rows[KEY]["images_per_second"] == 123.0
    assert scheduled.guidance == Guidance(
        2.0, ("cosine", 0.0, 0.5), 0.9, weak_label="null", ids="nested", segments=4
    )
    asked = table.canonical(Guidance(1.0, 0.5, 0.7, segments=2))
    assert unguided == dataclasses.replace(KEY, guidance=asked)


def test_columns_are_read_by_name(tmp_path):
    table.write(tmp_path, {KEY: MEASURED})
    path = tmp_path / "scores.csv"
    cells = list(csv.DictReader(path.open()))
    turned = {name: cells[0][name] for name in reversed(cells[0])}
    for gone in ("recall", "gamma_weak", "interval", "seed", "check"):
        del turned[gone]
    path.write_text(
        "".join(f"{','.join(map(_quoted, line))}\n" for line in (turned, turned.values()))
    )
    ((key, scores),) = table.read(tmp_path).items()
    # A setting or condition has its default, and a metric was not measured.
    assert key == dataclasses.replace(KEY, guidance=table.canonical(Guidance(1.5)), seed=0)
    assert scores == {name: MEASURED[name] for name in MEASURED if name != "recall"}


def _quoted(cell):
    return f'"{cell}"'


def test_columns_of_no_known_name_stay_in_the_file(tmp_path):
    path = table.write(tmp_path, {KEY: MEASURED})
    head, row = path.read_text().splitlines()
    path.write_text(f"{head},other,note\n{row},0.125,by hand\n")
    rows = table.read(tmp_path)
    assert rows == {KEY: MEASURED}
    other = dataclasses.replace(KEY, seed=1)
    table.write(tmp_path, {other: MEASURED, **rows})
    first, second = csv.DictReader(path.open())
    assert (first["seed"], first["other"], first["note"]) == ("1", "", "")
    assert (second["seed"], second["other"], second["note"]) == ("0", "0.125", "by hand")
    assert table.read(tmp_path) == {other: MEASURED, KEY: MEASURED}


def test_a_metric_from_outside_has_a_column(tmp_path, monkeypatch):
    table.write(tmp_path, {KEY: MEASURED})
    monkeypatch.setitem(METRICS, "other", dataclasses.replace(METRICS["frechet"], name="other"))
    assert table.read(tmp_path) == {KEY: MEASURED}
    table.write(tmp_path, {KEY: {**MEASURED, "other": 0.125}})
    assert table.read(tmp_path)[KEY]["other"] == 0.125
    monkeypatch.delitem(METRICS, "other")  # and a version that lacks it does not lose it
    table.write(tmp_path, table.read(tmp_path))
    monkeypatch.setitem(METRICS, "other", dataclasses.replace(METRICS["frechet"], name="other"))
    assert table.read(tmp_path)[KEY]["other"] == 0.125


def test_what_changes_nothing_makes_no_other_key():
    same = table.canonical(Guidance())
    assert table.canonical(Guidance(1.0, 0.0, 0.9, weak_label="null", interval=(0.2, 0.5))) == same
    assert table.canonical(Guidance(3.0)) == same  # both predictions are equal
    assert table.canonical(Guidance(1.0, 0.5)) != same
    assert repr(table.canonical(Guidance(2, 0, 0.5))) == repr(Guidance(2.0, 0.0, 0.5))


def test_files_of_before_keep_their_names():
    """The digest of a setting without later fields is that of the words that it had before."""
    words = (
        "Key(guidance=Guidance(scale=1.5, gamma_strong=0.0, gamma_weak=0.25, weak_label='same', "
        "weak_step=0, weak_workdir='', interval=(0.0, 1.0), ids='uniform', segments=8, channels=0),"
        " sampler='euler', steps=40, samples=12, references=40, features='00000012', seed=0, "
        "checkpoint=7)"
    )
    assert KEY.digest == f"{zlib.crc32(words.encode()):08x}"
    other = dataclasses.replace(KEY.guidance, refresh=2)
    assert dataclasses.replace(KEY, guidance=other).digest != KEY.digest


@pytest.mark.parametrize(
    "one, other",
    [
        (Guidance(skip=2, time_noise=1.0, refresh=3, norm=1.0, rescale=True), Guidance()),
        (Guidance(1.0, 0.5, 0.7, zero_steps=2, ids="borrowed"), Guidance(1.0, 0.5)),
        (Guidance(2.0, 0.0, 0.5, time_power=3.0), Guidance(2.0, 0.0, 0.5)),
        (Guidance(1.0, 0.0, 0.5, "null", inner_scale=2, refresh=4), Guidance(inner_scale=2.0)),
        (
            Guidance(1, 0.0, 0.5, weak_step=3, skip=1, skip_scale=2),
            Guidance(skip=1, skip_scale=2.0),
        ),
        (Guidance(2.0, 0.0, 1.0, ids="borrowed"), Guidance(2.0, 0.0, 1.0)),
    ],
)
def test_what_a_term_does_not_read_makes_no_other_key(one, other):
    assert table.canonical(one) == table.canonical(other)
    assert repr(table.canonical(one)) == repr(table.canonical(other))


def test_borrowed_ids_are_not_drawn_ones():
    one, other = (table.canonical(Guidance(2.0, 0.0, 0.5, ids=i)) for i in ("borrowed", "uniform"))
    assert one != other


@pytest.mark.slow
@pytest.mark.parametrize(
    "one, other, equal",
    [
        (Guidance(2.0, 0.25, 0.5, segments=2), Guidance(2.0, 0.25, 0.5), True),
        (Guidance(2.0, ("linear", 0.0, 0.5), 0.5, segments=1),
         Guidance(2.0, ("linear", 0.0, 0.5), 0.5), False),
        (Guidance(2.0, weak_label="null", ids="stratified"),
         Guidance(2.0, weak_label="null"), True),  # all tokens: nothing is drawn
        (Guidance(2.0, 0.0, 1.0, ids="stratified"), Guidance(2.0, 0.0, 1.0), True),  # nor here
        (Guidance(2.0, 0.0, 0.5, ids="stratified"), Guidance(2.0, 0.0, 0.5), False),
        (Guidance(2.0, 0.0, 0.5, ids="nested"), Guidance(2.0, 0.0, 0.5), True),
        (Guidance(2.0, 0.5, 0.0, ids="nested"), Guidance(2.0, 0.5, 0.0), True),
        (Guidance(2.0, 0.5, 1.0, ids="nested"), Guidance(2.0, 0.5, 1.0), True),
        (Guidance(2.0, 0.25, 0.5, ids="nested"), Guidance(2.0, 0.25, 0.5), False),
        (Guidance(2.0, 0.5, 0.5, weak_label="null", ids="nested"),
         Guidance(2.0, 0.5, 0.5, weak_label="null"), False),
        (Guidance(1.0, 0.5, 0.75, ids="nested"), Guidance(1.0, 0.5), True),  # one prediction
        (Guidance(1.0, 0.5, 0.75, ids="stratified"), Guidance(1.0, 0.5), False),
    ],
)  # fmt: skip
def test_keys_are_equal_exactly_where_images_are(one, other, equal, draw):
    assert (table.canonical(one) == table.canonical(other)) == equal
    assert np.array_equal(draw(one), draw(other)) == equal


def test_samplers_in_words():
    assert table.words(Sampler("heun")) == "heun"
    assert table.words(Sampler("heun", shift=2.0)) == "heun shift=2.0"


def test_what_a_sampler_drew_before_it_was_mended_is_not_its_own():
    assert table.words(Sampler("euler_maruyama")) != "euler_maruyama"
