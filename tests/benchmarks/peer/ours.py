"""Our side: the package's own training step and sampler, as an experiment describes them."""

import pathlib
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import turns

from sg_jax.config import experiment, geometry
from sg_jax.config import parsing as config_lib
from sg_jax.costs import flops
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.sampler import Sampler
from sg_jax.models import sizes
from sg_jax.parallel import sharding
from sg_jax.programs import integration
from sg_jax.programs.training import abstract_state, start_state
from sg_jax.weights import convert

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
SIZES = {f"{s}/2": CONFIGS / f"imagenet256_sit_{s.lower()}2_routing.py" for s in sizes.SIZES}
SETTINGS = {"unguided": "unguided", "CFG": "cfg", "SG": "sg_flops"}  # our name: the config's


class Ours:
    """Our network of one size, with the published network's weights.

    Everything is as in the ImageNet config of that size, except for what the published network
    doesn't do: gradients are not clipped, nothing is recomputed to save memory, and the head has C
    channels.
    """

    def __init__(self, size: str, dtype: str, weights: Mapping[str, np.ndarray]):
        config = config_lib.load(str(SIZES[size]))
        config.model.update(dict(dtype=dtype, remat="none", learn_sigma=False))
        config.optimizer.clip_norm = 0.0
        self.config = geometry.fill_geometry(config)
        self.model = convert.from_state_dict(
            weights, "sit", routes=config.model.routes, dtype=dtype, remat="none"
        )

    def experiment(self, batch: int) -> experiment.Experiment:
        """Return the experiment at a batch size, on one device."""
        self.config.train.batch_size = self.config.sample.batch_size = batch
        return experiment.build(self.config, jax.devices()[:1])

    def predict(self, x: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the prediction [B, H, W, C] of inputs x_t [B, H, W, C], t [B], y [B]."""
        return np.asarray(jax.jit(lambda model, *args: model(*args))(self.model, x, t, y))

    def training(self, batch: int, steps: int) -> list[turns.Program]:
        """Return the training step, dense and routed; they advance one state in turns."""
        made = self.experiment(batch)
        shapes = abstract_state(made.make_model, made.tx, made.mesh)
        model = jax.tree.map(jnp.copy, self.model)  # the step reuses the memory of its arguments
        state = start_state(model, made.tx.init(model))
        state = jax.device_put(state, jax.tree.map(lambda s: s.sharding, shapes))
        rng, key = np.random.default_rng(0), jax.random.key(0)
        data = {"image": rng.standard_normal((batch, 32, 32, 4), np.float32),
                "condition": rng.integers(0, 1000, batch, np.int32)}  # fmt: skip
        data = jax.device_put(data, sharding.batch_sharding(made.mesh))

        def program(name, gamma):
            cost = flops.training_step(made.model, gamma, batch, full=True)

            def make():
                step = made.compile_train_step(gamma, state).lower(state, data, key).compile()

                def call():
                    nonlocal state
                    for _ in range(steps):
                        state, metrics = step(state, data, key)
                    jax.block_until_ready((state, metrics))

                return step, call

            return _program(f"ours, {name} training", make, steps, cost)

        return [program("dense", 0.0), program("routed", made.objective.gamma)]

    def sampling(self, batch: int, steps: int) -> list[turns.Program]:
        """Return `steps` steps of the sampler for each of `SETTINGS`."""
        made = self.experiment(batch)
        model = jax.device_put(self.model, sharding.infer(self.model, made.mesh))
        labels = np.random.default_rng(0).integers(0, 1000, batch, np.int32)
        labels, keys = jax.device_put(
            (labels, integration.image_keys(0, 0, batch)), sharding.batch_sharding(made.mesh)
        )

        def program(name, setting):
            guidance = made.settings[setting]
            plan, scales = guidance_lib.plan(guidance, Sampler(), steps)
            cost = batch * flops.sampling_step(made.model, guidance, full=True)

            def make():
                run = integration.integrate.lower(
                    model, None, labels, keys, scales,
                    plan=plan, sampler=Sampler(), steps=steps, mesh=made.mesh,
                ).compile()  # fmt: skip
                return run, lambda: jax.block_until_ready(run(model, None, labels, keys, scales))

            return _program(f"ours, {name}", make, steps, cost)

        return [program(name, setting) for name, setting in SETTINGS.items()]


def _program(name: str, make: Callable, steps: int, cost: float) -> turns.Program:
    """Compile a program, call it once, and read its memory off the compiler's plan."""
    began = time.perf_counter()
    compiled, call = make()
    call()
    first = time.perf_counter() - began
    plan = compiled.memory_analysis()
    memory = (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )
    return turns.Program(name, call, steps, cost, first, memory, f"jax {jax.__version__}")


def product(size: int, dtype: str, calls: int) -> Callable[[], None]:
    """Return a function that multiplies two random matrices [size, size] `calls` times."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
    multiply = jax.jit(jnp.matmul)

    def call():
        for _ in range(calls):
            c = multiply(a, b)
        jax.block_until_ready(c)

    return call
