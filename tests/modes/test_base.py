"""What modes declare is checked before they run."""

import dataclasses

import pytest

from sg_jax.config import trust
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.modes import MODES
from sg_jax.modes.base import Job, check_folders


@pytest.mark.parametrize("name", sorted(MODES))
def test_a_folder_that_cannot_be_written_is_named_by_its_flag(tmp_path, name):
    mode = MODES[name]
    (tmp_path / "file").touch()
    flags = [o.name for o in mode.options if o.written]
    for flag in [*flags, *(["workdir"] if mode.writes else [])]:
        options = {o.name: str(tmp_path) for o in mode.options}
        job = Job(str(tmp_path / "run"), options=options)
        check_folders(mode, job)
        there = str(tmp_path / "file" / "new")
        if flag == "workdir":
            job = dataclasses.replace(job, workdir=there)
        else:
            job = dataclasses.replace(job, options={**options, flag: there})
        with pytest.raises(UserError, match=rf"--{flag}=.*file/new cannot be written: .* a file"):
            check_folders(mode, job)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name, part",
    [("sample", "samples"), ("evaluate", "samples/scored"), ("train", "checkpoints")],
)
def test_the_folders_in_a_run_are_tried_too(tmp_path, name, part):
    path = tmp_path / part
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(UserError, match=rf"cannot be written: .*{part} is a file"):
        check_folders(MODES[name], Job(str(tmp_path)))


def test_a_file_of_aot_is_tried_before_it_compiles(tmp_path):
    (tmp_path / "file").touch()
    given = ["main", "--mode=aot", "--config=configs/digits.py", "--topology=v5e:1x1"]
    shapes = ("image_size=8", "channels=1", "num_classes=10")
    given += [f"--config.model.{shape}" for shape in shapes]
    with pytest.raises(UserError, match="file is a file"):
        main([*given, f"--json={tmp_path / 'file' / 'x.json'}"])
    with pytest.raises(UserError, match=r"^--json=.* is a folder: give a file"):
        main([*given, f"--json={tmp_path}"])
    with pytest.raises(UserError, match=r"--out=.* cannot be written"):
        main(["main", "--mode=compare", str(tmp_path), f"--out={tmp_path / 'file'}"])


def test_every_folder_that_a_mode_writes_to_may_be_no_link_out_of_the_run():
    written = {part for mode in MODES.values() for part in mode.writes} - {""}
    assert written <= set(trust.FOLDERS)
