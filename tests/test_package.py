"""The wheel holds every file of the package, and its modules import where the checkout is not."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
IMPORT = """
import importlib, pathlib, pkgutil, sys, sg_jax
here = pathlib.Path(sg_jax.__file__).parent
names = [found.name for found in pkgutil.walk_packages([str(here)], "sg_jax.")]
for name in names:
    assert here in pathlib.Path(importlib.import_module(name).__file__).parents, name
print(here, len(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the package, unpacked in a folder of its own."""
    tree, built, unpacked = (tmp_path_factory.mktemp(n) for n in ("tree", "built", "unpacked"))
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sg_jax", tree / "sg_jax", ignore=ignore)
    shutil.copy(ROOT / "setup.py", tree)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, built], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    zipfile.ZipFile(path).extractall(unpacked)
    return unpacked


def files_of(folder: pathlib.Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    assert files_of(wheel / "sg_jax") == files_of(ROOT / "sg_jax")
    assert "py.typed" in files_of(wheel / "sg_jax")
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {
        "sg_jax"
    }  # no tests, no configs


def test_every_module_imports_from_the_wheel_alone(wheel, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, count = done.stdout.split()
    modules = {name for name in files_of(wheel / "sg_jax") if name.endswith(".py")}
    assert pathlib.Path(where) == wheel / "sg_jax"
    assert int(count) == len(modules) - 1  # sg_jax/__init__.py is not below itself
