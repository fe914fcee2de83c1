"""The record of a run survives crashes and resumes."""

import json

import numpy as np
import pytest

from sg_jax.runs import files
from sg_jax.runs.records import Writer, read_metrics, training_seconds


def write(folder, steps, start):
    writer = Writer(str(folder), start)
    for step in steps:
        writer.scalars(step, {"loss": step / 2})
    writer.close()


def steps(folder):
    return [record["step"] for record in read_metrics(str(folder))]


def test_records_come_back(tmp_path):
    write(tmp_path, [10, 20], start=0)
    assert read_metrics(str(tmp_path)) == [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 10.0}]


def test_a_record_is_on_disk_at_once(tmp_path):
    writer = Writer(str(tmp_path), 0)
    writer.scalars(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]
    writer.close()


def test_a_run_without_records(tmp_path):
    assert read_metrics(str(tmp_path)) == []


def test_a_last_line_cut_short_is_left_out(tmp_path):
    write(tmp_path, [10, 20], start=0)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(1, len('{"step": 20, "loss": 10.0}')):
        path.write_text(whole[: -cut - 1])
        assert steps(tmp_path) == [10]


def test_a_run_goes_on_after_a_line_cut_short(tmp_path):
    write(tmp_path, [10, 20], start=0)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    write(tmp_path, [20, 30], start=10)
    assert steps(tmp_path) == [10, 20, 30]
    assert all(json.loads(line) for line in path.read_text().splitlines())


GOOD = ['{"step": 10, "loss": 5.0}', '{"step": 20, "loss": 10.0}', '{"step": 30, "loss": 15.0}']
BAD = [
    "not JSON", "\x00\x89PNG", "{", "[1, 2]", '"text"', "5", "null", "{}", '{"loss": 1.0}',
    '{"step": "4", "loss": 1.0}', '{"step": 4.5}', '{"step": -1}', '{"step": true}',
    '{"step": 4, "loss": "low"}', '{"step": 4, "loss": null}', '{"step": 4, "loss": {"a": 1}}',
    '{"step": 4, "loss": 1' + "0" * 400 + "}", '{"step": 1' + "0" * 5000 + "}", "[" * 100_000,
    '{"step": 4} {"step": 5}',
]  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_line_that_is_no_record_loses_no_other(tmp_path, capsys, place):
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.damaged.jsonl"
    path.write_text("".join(line + "\n" for line in (*GOOD[:place], *BAD, *GOOD[place:])))
    assert steps(tmp_path) == [10, 20, 30]  # as a report reads them
    write(tmp_path, [40], start=30)
    assert path.read_text().splitlines()[:3] == GOOD and steps(tmp_path) == [10, 20, 30, 40]
    assert aside.read_text().splitlines() == BAD  # nothing is deleted
    (line,) = capsys.readouterr().out.splitlines()
    assert f"not records: {len(BAD)}" in line and "'not JSON'" in line and aside.name in line
    path.write_text(path.read_text() + "more\n")
    write(tmp_path, [], start=40)
    assert aside.read_text().splitlines() == [*BAD, "more"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"text", b"", b"\n\n", bytes(range(256)) * 9])
def test_another_file_in_place_of_the_records_is_kept_aside(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert steps(tmp_path) == []
    write(tmp_path, [10], start=0)
    assert steps(tmp_path) == [10]
    aside = tmp_path / "metrics.damaged.jsonl"
    kept = aside.read_bytes() if aside.exists() else b""
    assert kept.split() == content.split()


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "grad_norm": Infinity}\n{"step": 2, "loss": NaN}\n')
    assert read_metrics(str(tmp_path)) == [{"step": 1, "loss": 2.0}, {"step": 2}]
    writer = Writer(str(tmp_path), 2)
    writer.scalars(3, {"loss": float("nan"), "grad_norm": float("-inf"), "rate": 1.0})
    writer.close()
    assert '{"step": 3, "rate": 1.0}' in path.read_text()
    assert not any(word in path.read_text() for word in ("NaN", "Infinity"))


def test_each_step_has_one_record(tmp_path):
    write(tmp_path, [10, 20, 20, 10], start=0)
    write(tmp_path, [30], start=20)
    assert steps(tmp_path) == [10, 20, 30]


def test_records_after_the_step_a_run_resumes_from_are_dropped(tmp_path):
    write(tmp_path, [10, 20, 30, 40], start=0)
    write(tmp_path, [30], start=20)
    assert steps(tmp_path) == [10, 20, 30]


def test_a_run_from_the_start_drops_all_records(tmp_path):
    write(tmp_path, [10, 20], start=0)
    write(tmp_path, [], start=0)
    assert steps(tmp_path) == []


def test_a_local_record_costs_one_line(tmp_path, monkeypatch):
    """Not the file again: a long run must not become quadratic."""
    writer = Writer(str(tmp_path), 0)
    monkeypatch.setattr("sg_jax.runs.files.write_atomically", None)
    with (tmp_path / "metrics.jsonl").open() as reader:
        for step in (1, 2):
            writer.scalars(step, {"loss": 1.0})
            assert json.loads(reader.read()) == {"step": step, "loss": 1.0}
    writer.close()


@pytest.fixture
def now(monkeypatch):
    """A list whose last number is the time in seconds that a writer goes by."""
    seconds = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[-1])
    return seconds


def test_in_a_bucket_records_are_written_every_half_minute_and_when_flushed(bucket, now):
    writer = Writer("gs://b/run", 0)
    for seconds, written in ((0, []), (29, []), (30, [1, 2, 3]), (59, [1, 2, 3]), (60, None)):
        now.append(1000.0 + seconds)
        writer.scalars(len(now) - 1, {"loss": 0.5})
        assert steps("gs://b/run") == (written if written is not None else [1, 2, 3, 4, 5])
    writer.scalars(6, {"loss": 0.5})
    assert steps("gs://b/run") == [1, 2, 3, 4, 5]
    writer.flush()
    assert steps("gs://b/run") == [1, 2, 3, 4, 5, 6]
    writer.scalars(7, {"loss": 0.5})
    writer.close()
    assert steps("gs://b/run") == [1, 2, 3, 4, 5, 6, 7]


def test_in_a_bucket_slow_writing_waits_longer(bucket, now, monkeypatch):
    """Writing for 10 s is due again after 200 s."""
    writer = Writer("gs://b/run", 0)
    write = files.write_atomically

    def slowly(*arguments):
        now.append(now[-1] + 10)
        write(*arguments)

    monkeypatch.setattr(files, "write_atomically", slowly)
    now.append(1030.0)
    writer.scalars(1, {"loss": 0.5})  # written until 1040
    for seconds, written in ((1239.0, [1]), (1240.0, [1, 2, 3])):
        now.append(seconds)
        writer.scalars(2 if seconds < 1240 else 3, {"loss": 0.5})
        assert steps("gs://b/run") == written


def test_in_a_bucket_a_resumed_run_keeps_what_lies_before_it(bucket):
    write("gs://b/run", [10, 20, 30], start=0)
    write("gs://b/run", [30], start=20)
    assert steps("gs://b/run") == [10, 20, 30]
    assert [p.name for p in (bucket / "b" / "run").iterdir()] == ["metrics.jsonl"]


def test_in_a_bucket_one_line_says_that_there_are_no_events(bucket, capsys):
    writer = Writer("gs://b/run", 0)
    writer.image(1, "samples", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert "No TensorBoard events" in line and "gs://b/run/metrics.jsonl" in line


def test_numbers_and_pictures_go_to_tensorboard(tmp_path):
    writer = Writer(str(tmp_path), 0)
    writer.scalars(1, {"loss": 0.25})
    writer.image(1, "samples", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"samples" in content and b"PNG" in content


def test_training_seconds_are_summed_over_resumed_runs():
    records = [
        {"step": 1, "loss": 1.0},  # the first step alone: compiled, no rate
        {"step": 10, "loss": 1.0, "steps_per_second": 2.0},
        {"step": 12, "samples": 3},
        {"step": 20, "loss": 1.0, "steps_per_second": 5.0},
    ]
    assert training_seconds(records) == {1: 0.0, 10: 5.0, 20: 7.0}
    assert training_seconds([]) == {}
