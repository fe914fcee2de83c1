"""Gradients written by hand, against the products and formulas that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import f64

from sg_jax.models import gradients
from sg_jax.parallel import sharding


def test_a_function_gets_the_gradient_that_is_written_out():
    """x^2 y with twice its gradient: only what is kept reaches the backward pass."""

    @gradients.written_out(lambda x, y: (x, y), lambda kept, d: (4 * kept[0] * kept[1] * d, d))
    def square(x, y):
        return x**2 * y

    assert square(3.0, 5.0) == 45
    assert jax.grad(square, (0, 1))(3.0, 5.0) == (60, 1)


@pytest.mark.every(2)
@pytest.mark.parametrize("sizes", [(8, 3), (3, 8)])
@pytest.mark.parametrize("mesh", [None, sharding.one_device()], ids=["no mesh", "cpu"])
def test_the_gradient_of_a_kernel_is_the_product_over_all_tokens(sizes, mesh):
    x, dy = (jax.random.normal(jax.random.key(i), (2, 5, n)) for i, n in enumerate(sizes))
    with sharding.on(mesh):
        ours = jax.jit(lambda *a: gradients.kernel_gradient(*a, jnp.float32))(x, dy)
    expected = np.einsum("bnd,bne->de", f64(x), f64(dy))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.every(3)
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("mesh", [None, sharding.one_device()], ids=["no mesh", "cpu"])
def test_the_gradient_of_an_input_is_the_product_with_the_kernel(shape, mesh):
    dy, kernel = (
        jax.random.normal(jax.random.key(0), shape),
        jax.random.normal(jax.random.key(1), (16, 3)),
    )
    with sharding.on(mesh):
        ours = jax.jit(gradients.input_gradient)(dy, kernel)
    expected = np.einsum("...e,de->...d", f64(dy), f64(kernel))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_gelu_is_that_of_its_formula():
    x = jnp.linspace(-4, 4, 33)
    np.testing.assert_array_equal(gradients.gelu(x), jax.nn.gelu(x, approximate=True))
    ours, expected = (jax.vmap(jax.grad(f))(x) for f in (gradients.gelu, jax.nn.gelu))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_gelu_has_its_barrier_only_without_gradients():
    """With gradients it would keep XLA from fusing the reading of what was saved."""
    x = jnp.ones(3)
    assert "optimization_barrier" in str(jax.make_jaxpr(gradients.gelu)(x))
    with_gradient = jax.make_jaxpr(lambda x: jax.vjp(gradients.gelu, x)[1](x))(x)
    assert "optimization_barrier" not in str(with_gradient)
