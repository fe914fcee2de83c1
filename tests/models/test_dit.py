"""The DiT, against its definition in NumPy and the published PyTorch networks."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.network import Branch
from sg_jax.method.routing import draw_ids
from sg_jax.models import dit, layers, sizes
from sg_jax.models.dit import DiT

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@jax.jit
def branches(model, x, t, ys, ids):
    """One label for all branches, or one for each."""
    ys = ys * len(ids) if len(ys) == 1 else ys
    return model.branches(x, t, [Branch(y, i) for y, i in zip(ys, ids, strict=True)])


def name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def arrays_of(model):
    """The weights by name: "blocks/stacks/0/mlp/hidden/kernel"."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def with_arrays(model, arrays):
    """`model` with other weights; every one must be there, and fit."""
    assert {k: v.shape for k, v in arrays_of(model).items()} == {
        k: v.shape for k, v in arrays.items()
    }
    loaded = jax.device_put(arrays)
    return jax.tree_util.tree_map_with_path(lambda path, _: loaded[name(path)], model)


def draw(model, gamma, seed=0, batch=3):
    return draw_ids(model, jax.random.split(jax.random.key(seed), batch), gamma)


def reference(model, x, t, y, ids):
    """Return the velocity of one image [H, W, C], float64, as Peebles & Xie define the network."""
    weights = {k: np.asarray(v, np.float64) for k, v in arrays_of(model).items()}
    d, p, heads, side = model.width, model.patch, model.heads, model.image_size // model.patch
    head = d // heads

    def linear(name, h, pick=...):
        return h @ weights[f"{name}/kernel"][pick] + weights[f"{name}/bias"][pick]

    def silu(h):
        return h / (1 + np.exp(-h))

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)

    def sines(position, count):
        angles = [position / 10000 ** (i / count) for i in range(count)]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    def attention(name, pick, h):
        q, k, v = (linear(f"{name}/{part}", h, pick) for part in ("query", "key", "value"))
        out = []
        for n in range(0, d, head):  # channels of a head lie side by side
            scores = np.exp(q[:, n : n + head] @ k[:, n : n + head].T / math.sqrt(head))
            out.append(scores / scores.sum(1, keepdims=True) @ v[:, n : n + head])
        return linear(f"{name}/out", np.concatenate(out, axis=1), pick)

    def gelu(h):
        return 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))

    def block(name, pick, h, c):
        m = np.split(linear(f"{name}/modulation", silu(c), pick), 6)
        h = h + m[2] * attention(f"{name}/attention", pick, norm(h) * (1 + m[1]) + m[0])
        hidden = gelu(linear(f"{name}/mlp/hidden", norm(h) * (1 + m[4]) + m[3], pick))
        return h + m[5] * linear(f"{name}/mlp/out", hidden, pick)

    x = np.asarray(x, np.float64)
    cells = [(row, column) for row in range(side) for column in range(side)]
    h = np.stack([x[p * r : p * r + p, p * s : p * s + p].ravel() for r, s in cells])
    h = linear("patch_embedding", h)
    h = h + np.array([sines(s, d // 4) + sines(r, d // 4) for r, s in cells])
    frequencies = np.array([10000 ** (-i / 128) for i in range(128)])
    features = np.concatenate([np.cos(t * frequencies), np.sin(t * frequencies)])
    c = linear("time_embedding/out", silu(linear("time_embedding/hidden", features)))
    c = c + weights["label_embedding/table"][y]
    for number, segment in enumerate(model.blocks.segments):
        kept = np.arange(len(h)) if segment.route is None or ids is None else ids[segment.route]
        inside = h[kept]
        for pick in range(segment.stop - segment.start):
            inside = block(f"blocks/stacks/{number}", pick, inside, c)
        h[kept] = inside
    shift, scale = np.split(linear("final_modulation", silu(c)), 2)
    out, v = linear("final", norm(h) * (1 + scale) + shift), np.empty_like(x)
    for (r, s), token in zip(cells, out, strict=True):
        v[p * r : p * r + p, p * s : p * s + p] = token.reshape(p, p, -1)
    return v


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_the_network_is_the_one_the_paper_defines(tiny, inputs, forward, gamma):
    ids = draw(tiny, gamma)
    out = forward(tiny, *inputs, ids)
    assert out.dtype == jnp.float32 and 0.3 < out.std() < 10
    for b, (x, t, y) in enumerate(zip(*inputs, strict=True)):
        kept = ids and [np.asarray(i[b]) for i in ids]
        np.testing.assert_allclose(
            out[b], reference(tiny, x, float(t), int(y), kept), rtol=2e-4, atol=2e-5
        )


def from_torch(model, weights):
    """Return `model` with the weights of a published DiT or SiT, given by their torch names."""
    d, p = model.width, model.patch

    def linear(ours, theirs):
        kernel = weights[f"{theirs}.weight"].T  # torch: [out, in]
        return {f"{ours}/kernel": kernel, f"{ours}/bias": weights[f"{theirs}.bias"]}

    def block(i):
        out = linear("modulation", f"blocks.{i}.adaLN_modulation.1")
        out |= linear("mlp/hidden", f"blocks.{i}.mlp.fc1") | linear(
            "mlp/out", f"blocks.{i}.mlp.fc2"
        )
        out |= linear("attention/out", f"blocks.{i}.attn.proj")
        qkv = weights[f"blocks.{i}.attn.qkv.weight"].reshape(3, d, d)
        bias = weights[f"blocks.{i}.attn.qkv.bias"].reshape(3, d)
        for part, k, b in zip(("query", "key", "value"), qkv, bias, strict=True):
            out |= {f"attention/{part}/kernel": k.T, f"attention/{part}/bias": b}
        return out

    def head(array):  # learn_sigma doubles the channels, the fastest axis; velocity comes first
        channels = model.channels * (1 + model.learn_sigma)
        return array.reshape(p, p, -1, *array.shape[1:])[:, :, :channels]

    out = linear("time_embedding/hidden", "t_embedder.mlp.0")
    out |= linear("time_embedding/out", "t_embedder.mlp.2")
    out |= linear("final_modulation", "final_layer.adaLN_modulation.1")
    out["label_embedding/table"] = weights["y_embedder.embedding_table.weight"]
    kernel = weights["x_embedder.proj.weight"]  # [D, C, p, p]; our patches are [p, p, C]
    out["patch_embedding/kernel"] = kernel.transpose(2, 3, 1, 0).reshape(-1, d)
    out["patch_embedding/bias"] = weights["x_embedder.proj.bias"]
    out["final/kernel"] = head(weights["final_layer.linear.weight"]).reshape(-1, d).T
    out["final/bias"] = head(weights["final_layer.linear.bias"]).ravel()
    for number, segment in enumerate(model.blocks.segments):
        blocks = [block(i) for i in range(segment.start, segment.stop)]
        for key in blocks[0]:
            out[f"blocks/stacks/{number}/{key}"] = np.stack([b[key] for b in blocks])
    return with_arrays(model, out)


def published(name, make_dit, **changes):
    file = dict(np.load(GOLDEN / f"{name}.npz"))
    weights = {k.removeprefix("weights/"): v for k, v in file.items() if k.startswith("weights/")}
    model = make_dit(image_size=16, channels=4, num_classes=10, width=64, heads=4, **changes)
    return file, from_torch(model, weights)


def null(model):
    return model.conditioning.null(np.zeros(3, np.int32))


def channels_last(x):
    return np.moveaxis(x, 1, -1)


@pytest.fixture(scope="module")
def tread(make_dit):
    return published("tread_dit_tiny", make_dit, depth=6, routes=((2, 4),))


@pytest.mark.every(2)
@pytest.mark.parametrize("case", ["dense", "dense_null", "routed_0.5", "routed_0.9"])
def test_outputs_are_those_of_treads_network(tread, forward, case):
    file, model = tread
    gamma = case.removeprefix("routed_")
    ids = [jnp.asarray(file[f"keep_ids_{gamma}_0"])] if gamma != case else None
    y = null(model) if case == "dense_null" else file["y"]
    out = forward(model, channels_last(file["x"]), file["t"], jnp.asarray(y, jnp.int32), ids)
    np.testing.assert_allclose(out, channels_last(file[case]), rtol=0, atol=2e-5)


def test_treads_keep_counts_are_ours(tread):
    file, model = tread
    for gamma in ("0.5", "0.9"):
        assert file[f"keep_ids_{gamma}_0"].shape == draw(model, float(gamma))[0].shape


@pytest.fixture(scope="module", params=[True, False], ids=["whole head", "half"])
def sit(make_dit, request):
    """SiT's head with its second half of channels, or cut to the velocity."""
    return published("sit_tiny", make_dit, depth=4, routes=(), learn_sigma=request.param)


@pytest.mark.parametrize("case", ["velocity", "velocity_null"])
def test_outputs_are_those_of_the_sit_network(sit, forward, case):
    file, model = sit
    y = null(model) if case == "velocity_null" else file["y"]
    out = forward(model, channels_last(file["x"]), file["t"], jnp.asarray(y, jnp.int32), None)
    np.testing.assert_allclose(out, channels_last(file[case]), rtol=0, atol=2e-5)


def test_a_fresh_network_returns_zeros(zero, inputs, forward):
    assert not forward(zero, *inputs, None).any()


def test_a_fresh_block_returns_its_input():
    """The gates of adaLN-Zero start at zero."""
    block = random_weights.fresh(
        lambda rngs: dit.Block(8, 2, 4.0, jnp.dtype("float32"), "auto", rngs)
    )
    h = jax.random.normal(jax.random.key(0), (1, 5, 8))
    call = jax.jit(lambda block, h, c: block(h, layers.moments(h), c))
    out, (mean, rate) = call(block, h, jnp.ones((1, 8)))
    np.testing.assert_array_equal(out, h)
    np.testing.assert_allclose(mean[0, :, 0], h[0].mean(1), atol=1e-6)
    np.testing.assert_allclose(1 / rate[0, :, 0], h[0].std(1), rtol=1e-4)


def test_keeping_every_token_is_the_dense_network(tiny, inputs, forward):
    every = [jnp.tile(jnp.arange(16), (3, 1))]
    np.testing.assert_allclose(
        forward(tiny, *inputs, every), forward(tiny, *inputs, None), atol=1e-5
    )


def test_gamma_1_is_a_network_without_the_routed_blocks(tiny, make_dit, inputs, forward):
    short, (before, _, after) = make_dit(depth=2, routes=()), tiny.blocks.stacks
    arrays = {k: v for k, v in arrays_of(tiny).items() if not k.startswith("blocks")}
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before, after)
    for key, array in arrays_of(joined).items():
        arrays[f"blocks/stacks/0/{key}"] = array
    short = with_arrays(short, arrays)
    np.testing.assert_allclose(
        forward(tiny, *inputs, draw(tiny, 1.0)), forward(short, *inputs, None), atol=1e-5
    )


def test_dropping_tokens_changes_the_output(tiny, inputs, forward):
    dense = forward(tiny, *inputs, None)
    for gamma in (0.5, 1.0):
        assert jnp.abs(forward(tiny, *inputs, draw(tiny, gamma)) - dense).max() > 0.1


LABELS = {"one label": [[0, 4, 2]], "two labels": [[0, 4, 2], [5, 5, 5]]}  # 5 is the null label
PAIRS = {
    "dense": (0.0, 0.0),
    "equal": (0.5, 0.5),
    "unequal": (0.5, 0.75),
    "dense and sparse": (0.0, 0.75),
    "sparse and dense": (0.75, 0.0),
    "dense and skipped": (0.0, 1.0),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("pair", PAIRS)
def test_branches_are_what_separate_calls_return(small, inputs, forward, labels, pair):
    x, t, _ = inputs
    ys = [jnp.array(y) for y in LABELS[labels]]
    ids = [draw(small, gamma, seed) for seed, gamma in enumerate(PAIRS[pair])]
    together = branches(small, x, t, ys, ids)
    assert len(together) == 2
    for one, y, i in zip(together, [ys[0], ys[-1]], ids, strict=True):
        np.testing.assert_allclose(one, forward(small, x, t, y, i), atol=2e-5)


def test_branches_with_several_routes(make_dit, inputs):
    model = make_dit(depth=5, routes=((0, 1), (3, 3)))
    x, t, y = inputs
    ids = [draw(model, 0.25, 1), None, draw(model, 0.75, 2)]
    assert [i.shape for i in ids[0]] == [(3, 12), (3, 12)]
    for one, i in zip(branches(model, x, t, [y], ids), ids, strict=True):
        for b in range(3):
            kept = i and [np.asarray(route[b]) for route in i]
            expected = reference(model, x[b], float(t[b]), int(y[b]), kept)
            np.testing.assert_allclose(one[b], expected, rtol=2e-4, atol=2e-5)


def test_an_image_does_not_see_its_neighbours(tiny, inputs, forward):
    x, t, y = inputs
    ids = draw(tiny, 0.5)
    whole = forward(tiny, x, t, y, ids)
    alone = forward(tiny, x[1:2], t[1:2], y[1:2], [ids[0][1:2]])
    np.testing.assert_allclose(whole[1:2], alone, atol=1e-5)


def test_half_precision_agrees_roughly_and_returns_float32(tiny, make_dit, inputs, forward):
    half = make_dit(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    out, exact = forward(half, *inputs, None), forward(tiny, *inputs, None)
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.1 * exact.std()


@pytest.mark.parametrize("size, millions", [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675)])
def test_published_sizes_have_the_published_number_of_parameters(size, millions):
    """Table 4 of Peebles & Xie, for 32x32x4 latents of 1000 classes."""
    shape = dict(image_size=32, channels=4, num_classes=1000)
    model = jax.eval_shape(lambda: DiT(**shape, **sizes.geometry(size), rngs=nnx.Rngs(0)))
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e6 - millions) < 1


def test_a_size_names_depth_width_heads_and_patch():
    assert sizes.geometry("XL/4") == dict(depth=28, width=1152, heads=16, patch=4)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(patch=3), ["config.model.patch=3", "8"]),
        (dict(patch=0), ["config.model.patch=0"]),
        (dict(width=30), ["config.model.width=30", "by 4"]),
        (dict(heads=5), ["config.model.heads=5", "config.model.width=32"]),
        (dict(heads=0), ["config.model.heads=0"]),
        (dict(dtype="float16"), ["config.model.dtype='float16'", "'float32', 'bfloat16'"]),
        (dict(remat="all"), ["config.model.remat='all'", "'none', 'selective', 'full'"]),
        (dict(routes=((1, 4),)), ["route=(1, 4)", "depth=4"]),
        (dict(routes=(1, 2)), ["config.model.routes", "pair"]),
    ],
)
def test_a_wrong_shape_is_named(make_dit, changes, named):
    with pytest.raises(UserError) as error:
        make_dit(**changes)
    for part in named:
        assert part in str(error.value)


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UserError, match=r"config.model.size='XL2' must.*S/2.*mean 'XL/2'"):
        sizes.geometry("XL2")
