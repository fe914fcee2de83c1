"""From config to objects: what is filled in, and every wrong value named before work starts."""

import jax
import pytest

from sg_jax.config import experiment, geometry, parsing
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance

SMALL = dict(
    model=dict(depth=4, width=8, heads=2, patch=2, routes=((1, 2),)),
    train=dict(batch_size=16),
    sample=dict(batch_size=8),
)
DIGITS = dict(image_shape=(8, 8, 1), num_classes=10)


def completed(**changes):
    """SMALL with sections changed, completed by the data."""
    for section, values in SMALL.items():
        changes[section] = {**values, **changes.get(section, {})}
    return geometry.complete(parsing.merge(changes), **DIGITS)


@pytest.fixture(scope="module")
def built():
    return experiment.build(completed(guidance=dict(mine=dict(scale=3.0, gamma_weak=0.5))))


def test_shapes_come_from_the_data():
    given = parsing.merge(SMALL)
    model = geometry.complete(given, (8, 8, 1), 10).model
    assert (model.image_size, model.channels, model.num_classes) == (8, 1, 10)
    assert given.model.image_size == 0  # the argument stays as it was


def test_a_size_gives_the_geometry():
    given = parsing.merge(dict(model=dict(size="XL/2")))
    model = geometry.complete(given, **DIGITS).model
    assert (model.depth, model.width, model.heads, model.patch) == (28, 1152, 16, 2)


def test_a_size_and_a_number_that_differ_are_an_error():
    given = parsing.merge(dict(model=dict(size="XL/2", depth=30)))
    with pytest.raises(UserError, match=r"size='XL/2' has depth 28, but config\.model\.depth=30"):
        geometry.complete(given, **DIGITS)


def test_an_experiment_holds_shapes_not_weights(built):
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(built.model))
    assert (built.model.depth, built.model.tokens, built.model.routes) == (4, 16, ((1, 2),))


def test_weights_have_the_promised_shapes_and_follow_the_key(built):
    one, two = (jax.jit(built.make_model)(jax.random.key(k)) for k in (0, 1))
    assert jax.tree.structure(one) == jax.tree.structure(built.model)
    for leaf, shape in zip(jax.tree.leaves(one), jax.tree.leaves(built.model), strict=True):
        assert leaf.shape == shape.shape and leaf.dtype == shape.dtype
    tables = [model.label_embedding.table[...] for model in (one, two)]
    assert (tables[0] != tables[1]).all()


def test_the_sections_reach_the_objects(built):
    assert (built.objective.gamma, built.objective.time) == (0.5, "logit_normal")
    assert built.settings["mine"] == Guidance(3.0, 0.0, 0.5)
    assert built.schedule(5) == pytest.approx(1e-4)
    assert built.mesh.size == jax.device_count()


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(model=dict(routes=((2, 4),))), ["config.model.routes", "(2, 4)", "depth=4"]),
        (dict(model=dict(routes=((2, 1),))), ["config.model.routes", "(2, 1)", "start <= end"]),
        (dict(model=dict(routes=((0, 1), (1, 2)))), ["config.model.routes", "(1, 2)", "overlap"]),
        (dict(model=dict(routes=((0, 1, 2),))), ["config.model.routes", "(0, 1, 2)", "pair"]),
        (dict(model=dict(routes=(1, 2))), ["config.model.routes", "pair"]),
        (dict(model=dict(patch=3)), ["config.model.patch=3", "image size", "8"]),
        (dict(model=dict(heads=3)), ["config.model.heads=3", "config.model.width=8"]),
        (dict(model=dict(depth=0)), ["config.model.depth=0", "config.model.size"]),
        (dict(model=dict(mlp_ratio=0.0)), ["config.model.mlp_ratio=0.0"]),
        (dict(model=dict(size="XL2")), ["config.model.size='XL2'", "mean 'XL/2'"]),
        (dict(model=dict(dtype="bf16")), ["config.model.dtype='bf16'", "'bfloat16'"]),
        (dict(model=dict(remat="ful")), ["config.model.remat='ful'", "mean 'full'"]),
        (dict(model=dict(num_classes=9)), ["config.model.num_classes=9", "10", "'digits'"]),
        (dict(objective=dict(gamma=1.1)), ["config.objective.gamma=1.1", "[0, 1]"]),
        (dict(objective=dict(time="normal")), ["config.objective.time='normal'", "'uniform'"]),
        (dict(optimizer=dict(schedule="cos")), ["config.optimizer.schedule='cos'", "'cosine'"]),
        (
            dict(optimizer=dict(learning_rate=0.0)),
            ["optimizer.learning_rate=0.0", "above 0"],
        ),
        (dict(optimizer=dict(clip_norm=-1.0)), ["config.optimizer.clip_norm=-1.0"]),
        (dict(guidance=dict(sg=dict(gamma_weak=2.0))), ["config.guidance.sg.gamma_weak=2.0"]),
        (dict(guidance=dict(me=dict(weak_label="no"))), ["config.guidance.me.weak_label='no'"]),
        (dict(sample=dict(guidance="cfgg")), ["config.sample.guidance='cfgg'", "mean 'cfg'"]),
        (dict(features=dict(width=12)), ["config.features.width=12", "multiple of 8"]),
        (dict(evaluate=dict(seeds=(0, -1))), ["config.evaluate.seeds=(0, -1)", "2**32"]),
        (dict(evaluate=dict(seeds=(1, 1))), ["config.evaluate.seeds=(1, 1)", "twice"]),
        (dict(evaluate=dict(step=-2)), ["config.evaluate.step=-2", "at least -1"]),
        (dict(evaluate=dict(guidance=("sgg",))), ["config.evaluate.guidance='sgg'", "mean 'sg'"]),
        (dict(sample=dict(labels=(3, 10))), ["config.sample.labels", "10", "[0, 9]"]),
        (dict(sample=dict(steps=0)), ["config.sample.steps=0", "[1, 100000]"]),
        (dict(train=dict(steps=0)), ["config.train.steps=0", "at least 1"]),
        (dict(train=dict(ema_decay=1.0)), ["config.train.ema_decay=1.0", "[0, 1)"]),
        (dict(train=dict(then=("smaple",))), ["config.train.then", "'smaple'", "mean 'sample'"]),
        (dict(train=dict(batch_size=0)), ["config.train.batch_size=0", "at least 1"]),
        (dict(checkpoint=dict(keep=0)), ["config.checkpoint.keep=0", "at least 1"]),
        (dict(evaluate=dict(guidance=("sg", "sg"))), ["evaluate.guidance", "'sg' twice"]),
        (dict(diversity=dict(guidance=("cfg", "sg", "cfg"))), ["diversity", "'cfg' twice"]),
        (dict(train=dict(then=("sample", "sample"))), ["train.then", "'sample' twice"]),
        (dict(train=dict(gammas=((1, 0.5), (1, 0.7)))), ["train.gammas", "each only once"]),
        (dict(train=dict(gammas=((1.5, 0.5),))), ["train.gammas", "a whole step"]),
        (dict(sweep=dict(scale=(1.0, 1.0000001))), ["sweep.scale", "to six digits"]),
        (dict(sweep=dict(gamma_weak=(True, 0.5))), ["sweep.gamma_weak=(True, 0.5)", "numbers"]),
        (dict(sample=dict(labels=((0, 1), (2,)))), ["config.sample.labels=((0, 1), (2,))"]),
        (dict(sample=dict(labels=(True,))), ["config.sample.labels=(True,)", "ints"]),
        (dict(train=dict(steps=10**20)), ["config.train.steps=1", "2147483647", "int32"]),
        (dict(sample=dict(steps=10**6)), ["config.sample.steps=1000000", "float32"]),
        (dict(evaluate=dict(samples=10**9)), ["evaluate.samples=1000000000", "[10, 10000000]"]),
        (dict(model=dict(width=10**9)), ["config.model.width=1000000000", "[0, 131072]"]),
        (dict(model=dict(depth=10**6)), ["config.model.depth=1000000", "[0, 10000]"]),
        (dict(model=dict(image_size=10**6)), ["config.model.image_size=1000000"]),
        (dict(model=dict(mlp_ratio=1e6)), ["config.model.mlp_ratio=1000000.0", "(0, 1024]"]),
        (dict(optimizer=dict(learning_rate=1e39)), ["learning_rate=1e+39", "float32"]),
        (dict(optimizer=dict(learning_rate=1e-50)), ["learning_rate=1e-50", "in float32 it is 0"]),
        (dict(optimizer=dict(weight_decay=float("inf"))), ["weight_decay=inf", "float32"]),
        (dict(train=dict(ema_decay=0.9999999999)), ["ema_decay=0.9999999999", "it is 1"]),
        (dict(train=dict(ema_decays=(0.9999999,))), ["ema_decays=(0.9999999,)", "print as 1"]),
        (dict(features=dict(path="a\0b")), ["config.features.path='a\\x00b'", "Unicode"]),
    ],
)
def test_a_wrong_value_is_named(changes, named):
    with pytest.raises(UserError) as error:
        experiment.build(completed(**changes))
    for part in named:
        assert part in str(error.value)


@pytest.mark.skipif(jax.device_count() != 8, reason="counts eight devices")
@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(mesh=dict(data=3)), ["config.mesh.data=3", "config.mesh.fsdp=1", "8"]),
        (dict(mesh=dict(data=-1, fsdp=-1)), ["config.mesh.data=-1", "config.mesh.fsdp=-1"]),
    ],
)
def test_what_eight_devices_do_not_divide_is_named(changes, named):
    test_a_wrong_value_is_named(changes, named)


@pytest.mark.skipif(jax.device_count() != 8, reason="counts eight devices")
def test_devices_that_cannot_share_a_batch_of_training_can_draw():
    built = experiment.build(completed(train=dict(batch_size=12)))
    with pytest.raises(UserError, match=r"config\.train\.batch_size=12 must .* multiple of 8"):
        built.check_training()


def test_images_must_be_square():
    with pytest.raises(UserError, match=r"config\.data\.image_size=0.*8x6"):
        geometry.complete(parsing.merge(SMALL), (8, 6, 1), 10)
