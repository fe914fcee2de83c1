"""The network under text, against a plain forward pass in NumPy; and the choices of its block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx
from plain_network import Plain, arrays_of

from sg_jax.errors import UserError
from sg_jax.method.network import Branch
from sg_jax.method.routing import Context, draw_ids
from sg_jax.models import dit, layers, sizes
from sg_jax.models.dit import DiT
from sg_jax.models.parts import Parts
from sg_jax.models.text import Text
from sg_jax.models.text_dit import TextDiT
from sg_jax.parallel import sharding

MODERN = dict(
    norm="rms", mlp="swiglu", positions="rotary", qk_norm=True, bias=False, modulation_rank=4
)
SHAPE = dict(image_size=8, channels=3, patch=2, width=32, heads=2, routes=((1, 1),), depth=2)
TEXTS = ["a red circle", "", "two blue squares"]


def text_dit(**changes):
    arguments = {**SHAPE, **MODERN, "text_length": 16, "text_layers": 1, **changes}
    return random_weights.network(lambda rngs: TextDiT(**arguments, rngs=rngs))


@pytest.fixture(scope="module")
def net():
    return text_dit()


@pytest.fixture(scope="module")
def prompts(net):
    return jax.tree.map(jnp.asarray, net.conditioning.check(TEXTS))


def draw(model, gamma, seed=0):
    return draw_ids(model, jax.random.split(jax.random.key(seed), 3), gamma)


def check(model, x, t, condition, ids, out):
    plain = Plain(model)
    assert out.dtype == jnp.float32 and out.std() > 0.2
    for b in range(3):
        one = jax.tree.map(lambda a, b=b: np.asarray(a[b]), condition)
        kept = ids and [i[b] for i in ids]
        np.testing.assert_allclose(
            out[b], plain(x[b], float(t[b]), one, kept), rtol=3e-4, atol=3e-5
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_the_network_is_its_plain_forward_pass(net, prompts, inputs, forward, gamma):
    """With a route, kept tokens turn by their own positions: the plain pass has no others."""
    x, t, _ = inputs
    ids = draw(net, gamma)
    check(net, x, t, prompts, ids, forward(net, x, t, prompts, ids))


def test_words_as_tokens_are_its_plain_forward_pass(inputs, forward):
    """Of "two blue squares", the network of two words reads only the first two."""
    x, t, _ = inputs
    model = text_dit(text_words=2)
    texts = ["ünï, x", " \n", "two blue squares"]
    condition = jax.tree.map(jnp.asarray, model.conditioning.check(texts))
    assert condition["length"].tolist() == [6, 2, 8] and model.conditioning.tokens == 2
    ids = draw(model, 0.5)
    check(model, x, t, condition, ids, forward(model, x, t, condition, ids))


@pytest.mark.slow
def test_features_of_an_encoder_are_its_plain_forward_pass(inputs, forward):
    x, t, _ = inputs
    model = text_dit(text_length=4, text_features=6, bias=True, modulation_rank=0, norm="layer")
    text = jax.random.normal(jax.random.key(3), (3, 4, 6))
    condition = {"text": text, "length": jnp.array([4, 0, 2])}
    ids = draw(model, 0.5)
    check(model, x, t, condition, ids, forward(model, x, t, condition, ids))


CHOICES = {
    "all": MODERN,
    "lightningdit": dict(norm="rms", mlp="swiglu", positions="both"),
    "rms": dict(norm="rms"),
    "rotary": dict(positions="rotary"),
    "qk": dict(qk_norm=True),
    "plain": dict(bias=False),
}


@pytest.mark.every(6)
@pytest.mark.parametrize("choice", CHOICES)
def test_networks_of_classes_may_have_the_same_parts(inputs, forward, choice):
    x, t, y = inputs
    made = {**SHAPE, **CHOICES[choice], "num_classes": 5}
    model = random_weights.network(lambda rngs: DiT(**made, rngs=rngs))
    ids = draw(model, 0.5)
    check(model, x, t, y, ids, forward(model, x, t, y, ids))


def test_padding_changes_nothing(net, prompts, inputs, forward):
    x, t, _ = inputs
    wide = {"text": jnp.pad(prompts["text"], ((0, 0), (0, 7)), constant_values=9)}
    wide["length"] = prompts["length"]
    np.testing.assert_allclose(
        forward(net, x, t, wide, None), forward(net, x, t, prompts, None), atol=2e-6
    )


def test_the_text_matters(net, prompts, inputs, forward):
    x, t, _ = inputs
    null = net.conditioning.null(prompts)
    there, gone = (forward(net, x, t, c, None) for c in (prompts, null))
    assert (jnp.abs(there - gone).max((1, 2, 3)) > 0.01).tolist() == [True, False, True]


@pytest.mark.slow
def test_branches_are_what_separate_calls_return(net, prompts, inputs, forward):
    x, t, _ = inputs
    ids, null = draw(net, 0.5), net.conditioning.null(prompts)
    for conditions, kept in (
        ([prompts, null], [ids, None]),
        ([prompts, prompts], [ids, draw(net, 0.5, 1)]),
    ):
        together = jax.jit(
            lambda net, x, t, cs, ids, which: net.branches(
                x, t, [Branch(cs[w], i) for w, i in zip(which, ids, strict=True)]
            ),
            static_argnums=5,
        )(net, x, t, [prompts, null], kept, tuple(int(c is null) for c in conditions))
        for one, c, i in zip(together, conditions, kept, strict=True):
            np.testing.assert_allclose(one, forward(net, x, t, c, i), atol=1e-5)


def test_a_text_that_branches_share_is_refined_once(net, prompts, inputs, monkeypatch):
    x, t, _ = inputs
    null, calls, refine = net.conditioning.null(prompts), [], Text.__call__

    def counted(*arguments):
        calls.append(arguments)
        return refine(*arguments)

    def refined(*conditions):
        calls.clear()
        branches = [Branch(c, None) for c in conditions]
        jax.eval_shape(lambda net: net.branches(x, t, branches), net)
        return len(calls)

    monkeypatch.setattr(Text, "__call__", counted)
    assert refined(prompts, prompts) == refined(prompts) == 1
    assert refined(prompts, null, prompts) == refined(prompts, null) == 2


def loss(model, x, t, condition, ids):
    return jnp.square(model(x, t, condition, ids)).mean()


GRADIENT = jax.jit(jax.grad(loss))


@pytest.mark.slow
def test_gradients_are_those_of_the_plain_pass(net, prompts, inputs):
    """Along a random direction in the space of all weights; differences of the plain pass."""
    x, t, _ = inputs
    ids, rng = draw(net, 0.5), np.random.default_rng(1)
    way = jax.tree.map(lambda w: rng.standard_normal(w.shape), net)
    selective = jax.tree.map(lambda w: w, net)
    selective.blocks.remat = "selective"
    found = GRADIENT(selective, x, t, prompts, ids)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(way), strict=True)
    found = sum(float((np.asarray(a, np.float64) * b).sum()) for a, b in pairs)

    def plain(step):
        other = Plain(net)
        for name, direction in arrays_of(way).items():
            other.weights[name] = other.weights[name] + step * direction
        each = [jax.tree.map(lambda a, b=b: np.asarray(a[b]), prompts) for b in range(3)]
        vs = [other(x[b], float(t[b]), each[b], [i[b] for i in ids]) for b in range(3)]
        return np.square(vs).mean()

    assert found == pytest.approx((plain(1e-5) - plain(-1e-5)) / 2e-5, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["selective", "full"])
def test_remat_changes_no_gradient(net, prompts, inputs, remat):
    x, t, _ = inputs
    other = jax.tree.map(lambda w: w, net)
    other.blocks.remat = remat
    one, two = (GRADIENT(m, x, t, prompts, draw(net, 0.5)) for m in (net, other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_chunks_change_nothing(net, prompts, inputs, forward):
    x, t, _ = inputs
    ids = draw(net, 0.5)
    np.testing.assert_allclose(
        forward(net.in_chunks(16), x, t, prompts, ids), forward(net, x, t, prompts, ids), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes, remat",
    [(dict(fsdp=2, tensor=2), "selective"), (dict(data=2, fsdp=4), "none")],
)
def test_sharded_is_one_device(net, inputs, axes, remat):
    count = int(np.prod(list(axes.values())))
    mesh = sharding.make_mesh(**{"data": 1, **axes}, devices=jax.devices()[:count])
    x, t, _ = (jnp.tile(a, (3,) + (1,) * (a.ndim - 1))[:8] for a in inputs)
    texts = net.conditioning.check((TEXTS * 3)[:8])
    ids = draw_ids(net, jax.random.split(jax.random.key(0), 8), 0.5)
    model = jax.tree.map(lambda w: w, net)
    model.blocks.remat = remat
    value = jax.jit(jax.value_and_grad(loss))
    one = value(model, x, t, texts, ids)
    placed = jax.device_put(model, sharding.infer(model, mesh))
    batch = jax.device_put((x, t, texts, ids), sharding.batch_sharding(mesh))

    def traced(*arguments):
        with sharding.on(mesh):
            return jax.value_and_grad(loss)(*arguments)

    two = jax.jit(traced)(placed, *batch)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6)


@pytest.mark.slow
def test_half_precision_agrees_roughly(net, prompts, inputs, forward):
    x, t, _ = inputs
    half = text_dit(dtype="bfloat16")
    out, exact = forward(half, x, t, prompts, None), forward(net, x, t, prompts, None)
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.1 * exact.std()


def test_a_fresh_block_returns_its_input():
    """The gates and the last layer of the attention to text start at zero."""

    def make():
        numbers = jnp.dtype("float32")
        return dit.Block(8, 2, 4.0, numbers, "auto", nnx.Rngs(0), 0, Parts("rms"), 3)

    block = jax.jit(make)()
    h, text = (jax.random.normal(jax.random.key(n), (1, 5, 8)) for n in range(2))
    c = Context(jnp.ones((1, 8)), None, text, jnp.zeros((1, 5)))
    out, (mean, rate) = jax.jit(lambda *a: a[0](*a[1:]))(block, h, layers.moments(h, "rms"), c)
    np.testing.assert_array_equal(out, h)
    assert mean is None
    np.testing.assert_allclose(1 / rate[0, :, 0], np.sqrt((h[0] ** 2).mean(1)), rtol=1e-4)


def test_the_published_size_has_two_and_a_half_billion_parameters():
    """1,024 tokens of latents, and texts of 256 tokens with features of InternVL3-2B (1536)."""
    model = jax.eval_shape(
        lambda: TextDiT(image_size=64, channels=16, text_length=256, text_features=1536,
                        **sizes.geometry("T2I-2B/2"), rngs=nnx.Rngs(0))
    )  # fmt: skip
    assert model.tokens == 1024 and model.depth == 34 and model.routes == ((2, 30),)
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert abs(count / 2.5e9 - 1) < 0.03
    # By hand, in units of D^2: 8 for both attentions, 3 * 5504 / 2048 for the MLP, and 7 / 8 for a
    # modulation of rank D / 8; times 34. Text: 2 layers without the second attention.
    d = 2048
    blocks = 34 * (8 + 3 * 5504 / d + 7 / 8) + 2 * (4 + 3 * 5504 / d)
    assert count / d**2 == pytest.approx(blocks, rel=0.01)


@pytest.mark.parametrize("width, ratio, mlp, hidden", [
    (2048, 4.0, "swiglu", 5504), (1152, 4.0, "swiglu", 3072), (1024, 4.0, "swiglu", 2730),
    (1024, 4.0, "gelu", 4096),
])  # fmt: skip
def test_hidden_channels(width, ratio, mlp, hidden):
    """8/3 * 2048 = 5461 is rounded up to 43 tiles of 128."""
    assert sizes.hidden(width, ratio, mlp) == hidden


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(norm="batch"), ["config.model.norm='batch'", "'layer', 'rms'"]),
        (dict(mlp="relu"), ["config.model.mlp='relu'"]),
        (dict(positions="none"), ["config.model.positions='none'"]),
        (dict(qk_norm=1), ["config.model.qk_norm=1"]),
        (dict(heads=16), ["config.model.positions='rotary'", "multiple of 4", "heads of 2"]),
        (dict(modulation_rank=33), ["config.model.modulation_rank=33", "config.model.width=32"]),
        (dict(modulation_rank=-1), ["config.model.modulation_rank=-1"]),
        (dict(text_length=0), ["config.model.text_length=0"]),
        (dict(text_features=-1), ["config.model.text_features=-1"]),
        (dict(text_layers=1.5), ["config.model.text_layers=1.5"]),
        (dict(text_words=-1), ["config.model.text_words=-1"]),
        (dict(text_words=17), ["config.model.text_words=17", "at most text_length=16"]),
        (dict(text_words=3, text_features=4), ["config.model.text_words=3", "must be 0"]),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(UserError) as error:
        text_dit(**changes)
    for part in named:
        assert part in str(error.value)
