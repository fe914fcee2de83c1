"""The few public names: quick to import, each from its own module when it is first used."""

import json
import subprocess
import sys

import pytest

import sg_jax

HEAVY = ["orbax", "grain", "tensorflow_datasets", "tensorflow", "matplotlib", "scipy", "sklearn"]
PROGRAM = """
import json, sys, time
began = time.perf_counter()
import sg_jax
{then}
loaded = sorted(set({heavy}) & set(sys.modules))
print(json.dumps([time.perf_counter() - began, loaded]))
"""


def fresh(then=""):
    """Seconds that an interpreter of its own takes to import the package, and what came along."""
    program = PROGRAM.format(then=then, heavy=["jax", *HEAVY])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return json.loads(run.stdout)


def test_the_import_is_quick_and_loads_nothing_else():
    runs = [fresh() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 1.5
    assert all(loaded == [] for _, loaded in runs)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["PRESETS", "Guidance", "Sampler", "UserError", "sample"])
def test_a_name_loads_what_it_needs(name):
    _, loaded = fresh(f"sg_jax.{name}")
    assert not set(loaded) & set(HEAVY)


def test_every_public_name_is_there():
    for name in sg_jax.__all__:
        assert getattr(sg_jax, name) is not None
    assert set(sg_jax.__all__) < set(dir(sg_jax))


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="'sg_jax' has no attribute 'sampel'"):
        _ = sg_jax.sampel
