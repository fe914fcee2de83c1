"""Topologies by name, and the flags of the TPU compiler."""

import os

import pytest

from sg_jax.costs import chips
from sg_jax.costs.chips import CHIPS, chip_of, devices_of
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    "topology, named",
    [
        ("v5e", ["'v5e'", "v5e:16x16"]),
        ("v7:2x2", ["'v7:2x2'", "v4, v5e, v5p, v6e"]),
    ],
)
def test_topologies_that_are_none_are_named(topology, named):
    with pytest.raises(UserError) as error:
        devices_of(topology)
    assert all(part in str(error.value) for part in named)


@pytest.mark.parametrize("name", CHIPS)
def test_the_chip_of_a_topology(name):
    for topology in (f"{name}:2x2", f"2*{name}:16x16"):
        assert chip_of(topology) is CHIPS[name]


def test_compiler_flags_leave_those_of_the_user(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=1 --other=2")
    chips.set_flags()
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_scoped_vmem_limit_kib=1 --other=2"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    chips.set_flags()
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_scoped_vmem_limit_kib=32768"
