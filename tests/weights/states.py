"""A small network, and states of its training in which every number is another one."""

import jax
import numpy as np

from sg_jax.config import geometry, parsing
from sg_jax.config.sections import Model
from sg_jax.programs.optimizer import Optimizer
from sg_jax.programs.training import abstract_state

TX = Optimizer(learning_rate=1e-2, schedule="cosine", warmup=2, b2=0.99).make(steps=10)
NAMES = tuple("abcde")


def completed(**changes):
    model = dict(depth=4, width=16, heads=2, patch=2, routes=((1, 2),))
    changes["model"] = {**model, **changes.get("model", {})}
    return geometry.complete(parsing.merge(changes), (8, 8, 3), 5)


def make_model(key):
    return make_network(completed(), key)


def make_network(config, key):
    return geometry.make_model(Model(**config.model), key)


def random_state(mesh, seed=0, make=make_model):
    """A state on `mesh` in which every number is another one."""
    abstract = abstract_state(make, TX, mesh)
    rng = np.random.default_rng(seed)
    leaves, tree = jax.tree.flatten(abstract)
    values = [
        np.asarray(rng.standard_normal(x.shape) * 100).astype(x.dtype) for x in leaves
    ]  # integers too
    return jax.tree.unflatten(tree, map(jax.device_put, values, [x.sharding for x in leaves]))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
