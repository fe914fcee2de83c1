"""cuDNN's attention: when it is used, how it is called. Only a GPU can tell its result."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import F32

from sg_jax.errors import UserError
from sg_jax.models import attention_gpu
from sg_jax.models.attention import attend

HALF = jnp.bfloat16


@pytest.fixture
def mesh(monkeypatch):
    """Trace as if for an H200; return what the mesh says, to be changed."""
    said = types.SimpleNamespace(
        empty=False,
        shape={"tensor": 1},
        abstract_device=types.SimpleNamespace(platform="gpu"),
    )
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: said)
    monkeypatch.setattr(attention_gpu, "has_kernels", lambda: True)
    return said


def tokens(count=256, channels=64, dtype=HALF):
    return jnp.zeros((1, count, 2 * channels), dtype)


def test_auto_uses_it_where_it_is_faster(mesh):
    assert attention_gpu.takes("auto", tokens(), 2)
    assert attention_gpu.takes("auto", tokens(128, 72), 2)
    for slower in (tokens(26), tokens(257), tokens(dtype=F32), tokens(channels=136)):
        assert not attention_gpu.takes("auto", slower, 2)
    assert not attention_gpu.takes("xla", tokens(), 2)


@pytest.mark.parametrize("other", [{"empty": True}, {"shape": {"tensor": 2}}])
def test_auto_leaves_other_meshes_to_xla(mesh, other):
    vars(mesh).update(other)
    assert not attention_gpu.takes("auto", tokens(), 2)


@pytest.mark.parametrize(
    ("platform", "capability", "there"),
    [("gpu", "9.0", True), ("gpu", "8.0", True), ("gpu", "7.5", False), ("gpu", "gfx90a", False),
     ("cpu", None, False)],
)  # fmt: skip
def test_only_some_devices_have_kernels(monkeypatch, platform, capability, there):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert attention_gpu.has_kernels.__wrapped__() is there


@pytest.mark.parametrize("x", [tokens(dtype=F32), tokens(channels=136), tokens(257)])
def test_what_it_does_not_take_is_named(x):
    with pytest.raises(UserError, match=r"attention='cudnn' needs .*'auto' and 'xla' accept any"):
        attention_gpu.takes("cudnn", x, 2)


def test_it_computes_what_attend_does(monkeypatch):
    """With XLA in cuDNN's place, which no CPU has: heads, scale and order are the same."""
    ask = jax.nn.dot_product_attention
    asked = []

    def instead(*parts, implementation):
        asked.append(implementation)
        return ask(*parts, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    parts = jax.random.normal(jax.random.key(0), (3, 2, 6, 32))
    np.testing.assert_allclose(attention_gpu.attend(*parts, 4), attend(*parts, 4), atol=1e-5)
    assert asked == ["cudnn"]
