"""Paths on a disk and in a bucket, and files written whole."""

import os
import resource
import shutil
import sys

import pytest
from etils import epath
from fsspec.registry import _registry as file_systems

from sg_jax.config import parsing, record
from sg_jax.errors import UserError
from sg_jax.modes import bench, data
from sg_jax.modes.base import Job
from sg_jax.runs import files
from sg_jax.weights import checkpoints
from sg_jax.weights.saver import Saver


@pytest.fixture
def no_gcsfs(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # so that importing it fails
    for name in ("gs", "gcs"):
        monkeypatch.delitem(file_systems, name, raising=False)


@pytest.mark.parametrize("name", ["runs/a", "/runs/a", "../a", "gs://bucket/runs/a"])
def test_a_path_is_written_as_it_was_given(bucket, name):
    assert str(files.path(name)) == name


def test_a_path_in_a_bucket(bucket):
    path = files.path("gs://bucket/runs/a") / "x.txt"
    assert isinstance(path, epath.Path)
    assert os.fspath(path) == str(files.path(path)) == "gs://bucket/runs/a/x.txt"
    assert path.name == "x.txt" and str(path.parent.parent) == "gs://bucket/runs"
    assert files.is_remote(path) and not files.is_remote("runs/a") and not files.is_remote("/a")


def test_absolute_paths(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("runs/a") == tmp_path / "runs" / "a"
    assert str(files.absolute("gs://bucket/runs/a")) == "gs://bucket/runs/a"


def test_paths_to_the_same_place(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other in ("./a", "b/../a", str(tmp_path / "a"), "link", "a/"):
        assert files.same("a", other), other
    assert files.same("gs://bucket/a", "gs://bucket/a/")
    assert not files.same("a", "b") and not files.same("a", "gs://bucket/a")


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "gs://bucket/run/"])
def test_orbax_is_given_the_address_of_the_bucket(bucket, workdir):
    assert str(checkpoints.checkpoint_dir(workdir)) == "gs://bucket/run/checkpoints"
    with Saver(workdir, every=1, keep=1) as saver:
        assert str(saver.folder) == "gs://bucket/run/checkpoints"


def test_orbax_and_tensorstore_write_to_gs_themselves():
    """What the stand-in for a bucket in these tests replaces."""
    import tensorstore as ts
    from orbax.checkpoint._src.path import gcs_utils

    spec = gcs_utils.get_kvstore_for_gcs("gs://bucket/run/checkpoints/4/model")
    assert spec == {"driver": "gcs", "bucket": "bucket", "path": "run/checkpoints/4/model"}
    assert ts.KvStore.Spec(spec).url == "gs://bucket/run/checkpoints/4/model"


def test_listings_of_a_bucket_are_not_kept(bucket):
    """Else a host would not see what another one has written."""
    path = files.path("gs://bucket/run")
    assert path._backend.fs(path).storage_options["use_listings_cache"] is False


@pytest.mark.parametrize(
    "use",
    [
        files.path,
        checkpoints.load,
        lambda workdir: record.prepare(workdir, None, (), begun=False),
        lambda workdir: record.check_same(None, workdir, "sampled"),
        lambda workdir: bench.run(Job(workdir)),
        lambda workdir: data.run(Job(workdir, source=())),
    ],
)
def test_a_bucket_without_gcsfs_is_one_clear_error(no_gcsfs, use):
    with pytest.raises(UserError, match=r"'gs://bucket/run' .* not installed: `pip install gcsfs`"):
        use("gs://bucket/run")


@pytest.mark.parametrize("name", ["gs://", "gs:///", "ftps://a/b", "file:///tmp/run"])
def test_other_addresses_are_refused(bucket, name):
    with pytest.raises(UserError, match="must be a local folder or gs://BUCKET/FOLDER"):
        files.path(name)


@pytest.mark.parametrize("where", ["local", "gs://bucket/run"])
def test_a_file_is_written_whole_and_replaced(bucket, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    for content in (b"one", b"two"):
        path = files.write_atomically(f"{where}/new/folder/x.bin", content)
        assert str(path) == f"{where}/new/folder/x.bin"
        assert path.read_bytes() == content
    folder = tmp_path / "local" if where == "local" else bucket / "bucket" / "run"
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["x.bin"]


def test_an_interrupted_local_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write_atomically(tmp_path / "x.bin", b"old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_an_interrupted_upload_leaves_the_old_object(bucket, monkeypatch):
    """However a file of a bucket is closed, what was written to it so far becomes the object."""
    path = files.write_atomically("gs://b/x.bin", b"old" * 1000)

    def half(*_, **__):
        with path.open("wb") as remote:
            remote.write(b"new")
            raise KeyboardInterrupt

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", half)
    monkeypatch.setattr(type(path._backend.fs(path)), "put_file", fail)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old" * 1000


def test_a_folder_made_by_hand_in_a_bucket_is_a_new_folder(bucket, monkeypatch):
    """It is an object "run/" of no bytes, and gcsfs lists it in itself as "run"."""
    backend = files.path("gs://b/run")._backend
    for ask in ("exists", "isdir"):
        monkeypatch.setattr(backend, ask, lambda path: path == "gs://b/run")
    monkeypatch.setattr(backend, "listdir", lambda path: ["run"])
    record.prepare("gs://b/run", parsing.merge({}), ("a",), begun=False)
    assert (bucket / "b" / "run" / "config.json").is_file()


def test_a_folder_in_a_bucket_with_other_files_is_refused(bucket):
    files.write_atomically("gs://b/run/notes.txt", b"mine")
    with pytest.raises(UserError, match="--workdir=gs://b/run is not empty"):
        record.prepare("gs://b/run", parsing.merge({}), ("a",), begun=False)
    with pytest.raises(UserError, match=r"--workdir=gs://b/run/notes\.txt is a file"):
        record.prepare("gs://b/run/notes.txt", parsing.merge({}), ("a",), begun=False)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.path("~/runs/a") == files.absolute("~/runs/a") == tmp_path / "runs" / "a"
    assert str(files.path("a/~b")) == "a/~b"
    with pytest.raises(UserError, match="'~nobody-here/runs' begins with a user"):
        files.path("~nobody-here/runs")


@pytest.mark.parametrize("name", ["lr[3e-3]", "a*b", "what?", "back\\slash", "[!a]", "{a,b}"])
def test_children_of_a_folder_with_a_pattern_in_its_name(tmp_path, name):
    (tmp_path / name / "4").mkdir(parents=True)
    (tmp_path / name / "10").write_text("")
    found = files.children(tmp_path / name)
    assert [child.name for child in found] == ["10", "4"]
    assert files.children(tmp_path / "missing") == []
    (tmp_path / name / "4" / "a[1].png").write_text("")
    for pattern in ("*/*.png", "4/a?1?.png"):
        assert [path.name for path in files.named(tmp_path / name, pattern)] == ["a[1].png"]
    assert files.named(tmp_path / name, "*.png") == []
    assert files.named(tmp_path / "missing", "*/*.png") == []


def test_a_folder_that_can_be_written(tmp_path):
    files.check_writable(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []  # nothing is left, not even the folder


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, but a folder is needed"):
        files.check_writable(tmp_path / "file" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "away" / "run")
    for name in ("link", "link/deeper"):
        with pytest.raises(UserError, match=r"/link is a link to .*/run, which does not exist"):
            files.check_writable(tmp_path / name)
    with pytest.raises(UserError, match=r"/proc.* cannot be written"):
        files.check_writable("/proc/run")  # also for the superuser


def test_a_command_may_open_many_files(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(files, "MOST_OPEN", 512)
    try:
        for limit, expected in ((256, min(512, before[1])), (600, 600)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
            files.allow_many()
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (expected, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_many_images_are_tidied_over_quickly(tmp_path, monkeypatch):
    """Sorting a million paths, and asking whether each is a folder, would take a minute."""
    folder = tmp_path / "samples" / "evaluate_0"
    folder.mkdir(parents=True)
    for name in ("0.png", f".1.png{files.PARTIAL}"):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (1e9, 1e9))
    monkeypatch.delattr(files, "children")
    files.tidy(tmp_path)
    assert os.listdir(folder) == ["0.png"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GRACE", 0.01)
    left = [tmp_path / name for name in ("", "samples", "samples/scored")]
    for folder in left:
        folder.mkdir(exist_ok=True)
        (folder / ".a.npz.0123.partial").write_bytes(b"half")
        (folder / "a.npz").write_bytes(b"whole")
    open_one = tmp_path / ".b.npz.4567.partial"
    with open(open_one, "wb") as file:
        assert files.try_lock(file)
        files.tidy(tmp_path)
        assert open_one.exists()
    found = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert found == [".b.npz.4567.partial", "a.npz", "a.npz", "a.npz"]
    files.tidy(tmp_path)
    assert not open_one.exists()
    files.tidy(tmp_path / "missing")


def test_what_a_killed_command_left_is_removed(tmp_path):
    left, other = tmp_path / ".run.1f2e.partial", tmp_path / ".another.1f2e.partial"
    for folder in (left, other):
        (folder / "checkpoints").mkdir(parents=True)
        os.utime(folder, (0, 0))
    with files.making(tmp_path / "run") as folder:
        (folder / "a").touch()
        assert not (tmp_path / "run").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "run"]
    os.utime(other, (0, 0))
    with files.making(tmp_path / "another"):  # somebody else fills it at the same time
        (running,) = tmp_path.glob(".another.*.partial")
        os.utime(running, (0, 0))
        with pytest.raises(KeyError), files.making(tmp_path / "another"):
            raise KeyError
        assert running.exists()
