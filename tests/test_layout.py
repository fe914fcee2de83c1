"""The order of folders: who imports whom, read from the source, imports inside functions too."""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "sg_jax"
ORDER = (
    "errors", "method", "parallel", "models", "encoders", "runs", "costs", "data", "programs",
    "config", "weights", "evaluation", "modes", "main", "__init__",
)  # fmt: skip  # from the bottom to the top


def module_of(path: pathlib.Path) -> str:
    """Return the dotted name below sg_jax; a folder's own is that of its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: pathlib.Path) -> set[str]:
    """Return the names in FILES of what a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports by a relative name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n.removeprefix("sg_jax.") in FILES else node.module for n in names}
    ours = {name for name in found if name.split(".")[0] == "sg_jax"}
    ours = {name.partition(".")[2] or "__init__" for name in ours}
    assert ours <= FILES.keys(), f"{path} imports {ours - FILES.keys()}, which are no files"
    return ours


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_folders_below_it(folder):
    allowed = ORDER[: ORDER.index(folder) + 1]
    above = {
        f"{name} -> {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name.split(".")[0] == folder and other.split(".")[0] not in allowed
    }
    assert not above


def test_no_file_imports_itself_through_others():
    list(graphlib.TopologicalSorter(IMPORTS).static_order())  # raises with the circle


def test_every_folder_has_its_place_and_there_are_few():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {name.split(".")[0] for name in FILES} == set(ORDER)
    assert len(entries) <= 18, sorted(path.name for path in entries)


def test_files_are_short_enough_to_be_read():
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 320}


def test_the_first_line_of_a_file_says_what_it_holds():
    for name, path in FILES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


def test_no_two_files_of_tests_have_one_name():
    """Without packages, pytest imports only the first of them."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
