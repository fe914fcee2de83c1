"""Two commands that would train in one folder: the second refuses while the first runs."""

import json
import signal
import socket
import threading

import pytest
from harness import TRAIN_ONLY, is_one_sentence
from remains import differences, losses, results, saved

ENDLESS = (*TRAIN_ONLY, "--config.train.steps=1000000", "--config.checkpoint.every=1000000")


def refuses(command, by) -> None:
    """The command ends at once, and says which process has the folder."""
    assert command.wait(60) == 2, command.text()
    text = command.text()
    assert is_one_sentence(text) and str(by.pid) in text and socket.gethostname() in text, text
    assert by.poll() is None


@pytest.mark.slow
def test_the_second_refuses_and_takes_over_after_a_kill(lab, whole, tmp_path):
    workdir = tmp_path / "run"
    first = lab.start(workdir, *ENDLESS)
    assert first.says("step       4/")
    kept = (workdir / "config.json").read_bytes()
    refuses(lab.start(workdir, *ENDLESS), first)
    refuses(lab.start(workdir, *ENDLESS, "--config.optimizer.learning_rate=1e-5"), first)
    assert (workdir / "config.json").read_bytes() == kept
    first.send(signal.SIGKILL)
    first.wait()
    lab.run(workdir, *TRAIN_ONLY)
    assert len(losses(workdir)) == 12 and saved(workdir) == [8, 12]
    found, want = results(workdir), results(whole)
    assert not differences(found, {name: want.get(name) for name in found})


@pytest.mark.slow
def test_of_two_that_start_at_once_one_trains(lab, whole, tmp_path):
    for i in range(5):
        workdir = tmp_path / f"run{i}"
        both = [lab.start(workdir, *TRAIN_ONLY) for _ in range(2)]
        statuses = sorted(command.wait() for command in both)
        texts = [command.text() for command in both]
        assert statuses == [0, 2], texts
        assert "Traceback" not in "".join(texts)
        assert len(losses(workdir)) == 12


@pytest.mark.slow
def test_a_group_refuses_and_is_refused(lab, whole, tmp_path):
    workdir = tmp_path / "run"
    first = lab.start_group(workdir, *ENDLESS, number=2)
    assert first[0].says("step       4/")
    refuses(lab.start(workdir, *ENDLESS), first[0])
    second = lab.start_group(workdir, *ENDLESS, number=2)
    statuses = [command.wait(120) for command in second]
    assert statuses == [2, 2], [command.text() for command in second]
    assert str(first[0].pid) in second[0].text() and first[0].poll() is None
    for command in first:
        command.send(signal.SIGTERM)
    assert all(command.wait(60) not in (0, 2) for command in first)


@pytest.mark.slow
def test_other_commands_read_a_run_that_trains(lab, whole, tmp_path):
    workdir = lab.copy(whole, tmp_path / "run")
    first = lab.start(workdir, *ENDLESS)
    assert first.says("step      16/")
    text = lab.run(workdir, "--mode=sample")
    assert "Written: " in text and first.poll() is None
    first.send(signal.SIGTERM)
    assert first.wait(60) not in (0, 2)


@pytest.mark.slow
def test_a_run_that_ended_holds_nothing(lab, whole, tmp_path):
    """After its end, an error or a signal the folder is free, and nothing of the lock is left."""
    workdir = tmp_path / "run"
    command = lab.start(workdir, *ENDLESS)
    assert command.says("step       4/")
    before = {path.name for path in workdir.iterdir()}
    command.send(signal.SIGTERM)
    command.wait(60)
    after = {path.name for path in workdir.iterdir()}
    assert after <= {path.name for path in whole.iterdir()}, after - before


# Another host that shares the folder: its file is here, and its process is not.

FILE = "training.json"


@pytest.fixture(scope="session")
def file_of_another(lab, once):
    """What the file of a run on another host says."""

    def fill(folder):
        command = lab.start(folder / "run", *ENDLESS)
        assert command.says("step       4/")
        (folder / FILE).write_bytes((folder / "run" / FILE).read_bytes())
        command.send(signal.SIGKILL)
        command.wait()

    found = json.loads((once("another", fill) / FILE).read_text())
    assert found["host"] == socket.gethostname()
    return found | {"host": "tpu-7", "machine": "another", "pid": 4711}


class Heart:
    """Keeps changing the file, as the other host does while it trains."""

    def __init__(self, path, content):
        self.path, self.content, self.ended = path, content, threading.Event()
        self.path.parent.mkdir(exist_ok=True)
        self.beat()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def beat(self):
        self.content["beat"] += 1
        new = self.path.with_name("written by another host")
        new.write_text(json.dumps(self.content))
        new.replace(self.path)

    def run(self):
        while not self.ended.wait(2):
            self.beat()

    def stop(self):
        self.ended.set()
        self.thread.join()


@pytest.mark.slow
def test_a_living_run_of_another_host_is_respected_and_a_dead_one_taken_over(
    lab, whole, tmp_path, file_of_another
):
    workdir = tmp_path / "run"
    heart = Heart(workdir / FILE, file_of_another)
    command = lab.start(workdir, *TRAIN_ONLY)
    assert command.wait(120) == 2, command.text()
    text = command.text()
    assert is_one_sentence(text) and "tpu-7" in text and "4711" in text, text
    assert {path.name for path in workdir.iterdir()} == {FILE}
    heart.stop()
    assert json.loads((workdir / FILE).read_text())["token"] == file_of_another["token"]
    text = lab.run(workdir, *TRAIN_ONLY)
    assert "tpu-7" in text and len(losses(workdir)) == 12
    assert not (workdir / FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"[1, 2]", b'{"host": 3, "pid": []}']
)
def test_a_file_that_is_nobodys_holds_nothing(lab, whole, tmp_path, content):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / FILE).write_bytes(content)
    assert "Traceback" not in lab.run(workdir, *TRAIN_ONLY)
    assert len(losses(workdir)) == 12
