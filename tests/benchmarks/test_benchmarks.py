"""The smallest benchmarks run to the end, so that changes to the package do not break them."""

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("memory.py 300", "300"),
        ("distances.py --small", "precision_recall"),
        ("distances.py --small --search", "ratio"),
    ],
)
def test_a_benchmark_prints_its_table(command, told):
    name, *flags = command.split()
    done = subprocess.run(
        [sys.executable, HERE / name, *flags], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
