"""LightningDiT's weights in and out, against a plain forward pass under its published names."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.models.layers import position_table
from sg_jax.weights import shapes
from sg_jax.weights.convert import from_state_dict, to_state_dict

DEPTH, WIDTH, HEADS, HIDDEN, CHANNELS, PATCH, SIDE = 2, 32, 2, 85, 3, 2, 4  # 85 = int(2/3 128)


def angles():
    """The angle of each channel of a head [N, head]: rows, then columns, each in equal pairs."""
    count = WIDTH // HEADS // 4
    waves = np.repeat(10000.0 ** (-np.arange(count) / count), 2)
    return np.array([[n * w for n in (r, c) for w in waves]
                     for r in range(SIDE) for c in range(SIDE)])  # fmt: skip


def random_weights(qk_norm=False):
    """A state dict of the published code with random numbers."""
    d, pixels = WIDTH, PATCH**2 * CHANNELS
    found = {
        "x_embedder.proj.weight": (d, CHANNELS, PATCH, PATCH), "x_embedder.proj.bias": (d,),
        "t_embedder.mlp.0.weight": (d, 256), "t_embedder.mlp.0.bias": (d,),
        "t_embedder.mlp.2.weight": (d, d), "t_embedder.mlp.2.bias": (d,),
        "y_embedder.embedding_table.weight": (6, d),
        "final_layer.norm_final.weight": (d,),
        "final_layer.adaLN_modulation.1.weight": (2 * d, d),
        "final_layer.adaLN_modulation.1.bias": (2 * d,),
        "final_layer.linear.weight": (pixels, d), "final_layer.linear.bias": (pixels,),
    }  # fmt: skip
    for i in range(DEPTH):
        block = {
            "norm1.weight": (d,), "norm2.weight": (d,),
            "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
            "attn.proj.weight": (d, d), "attn.proj.bias": (d,),
            "mlp.w12.weight": (2 * HIDDEN, d), "mlp.w12.bias": (2 * HIDDEN,),
            "mlp.w3.weight": (d, HIDDEN), "mlp.w3.bias": (d,),
            "adaLN_modulation.1.weight": (6 * d, d), "adaLN_modulation.1.bias": (6 * d,),
        }  # fmt: skip
        if qk_norm:
            block |= {f"attn.{p}_norm.weight": (d // HEADS,) for p in "qk"}
        found |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    rng = np.random.default_rng(0)
    weights = {k: 0.15 * rng.standard_normal(s).astype(np.float32) for k, s in found.items()}
    weights |= {k: 1 + v for k, v in weights.items() if "norm" in k}
    weights["pos_embed"] = position_table(SIDE, SIDE, d)[None]
    weights["feat_rope.freqs_cos"] = np.cos(angles()).astype(np.float32)
    weights["feat_rope.freqs_sin"] = np.sin(angles()).astype(np.float32)
    return weights


def published(weights, x, t, y):
    """Return the velocity [C, H, W] of one image [C, H, W], float64."""
    w = {k: np.asarray(v, np.float64) for k, v in weights.items()}

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(h):
        return h / (1 + np.exp(-h))

    def norm(name, h):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    def rope(h):  # neighbouring channels are a complex number
        z = (h[:, 0::2] + 1j * h[:, 1::2]) * np.exp(1j * angles()[:, 0::2])
        return np.stack([z.real, z.imag], -1).reshape(h.shape)

    def attention(at, h):
        out, parts = [], np.split(linear(f"{at}.qkv", h), 3, axis=1)
        for n in range(0, WIDTH, WIDTH // HEADS):
            q, k, v = (part[:, n : n + WIDTH // HEADS] for part in parts)
            if f"{at}.q_norm.weight" in w:
                q, k = norm(f"{at}.q_norm", q), norm(f"{at}.k_norm", k)
            scores = np.exp(rope(q) @ rope(k).T / math.sqrt(q.shape[1]))
            out.append(scores / scores.sum(1, keepdims=True) @ v)
        return linear(f"{at}.proj", np.concatenate(out, axis=1))

    def mlp(at, h):
        gate, inside = np.split(linear(f"{at}.w12", h), 2, axis=1)
        return linear(f"{at}.w3", silu(gate) * inside)

    cuts = x.reshape(CHANNELS, SIDE, PATCH, SIDE, PATCH)
    kernel = w["x_embedder.proj.weight"]
    h = np.einsum("crpsq,dcpq->rsd", cuts, kernel).reshape(-1, WIDTH)
    h = h + w["x_embedder.proj.bias"] + w["pos_embed"][0]
    waves = np.exp(-math.log(10000) * np.arange(128) / 128)
    features = np.concatenate([np.cos(t * waves), np.sin(t * waves)])
    c = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", features)))
    c = silu(c + w["y_embedder.embedding_table.weight"][y])
    for i in range(DEPTH):
        m = np.split(linear(f"blocks.{i}.adaLN_modulation.1", c), 6)
        h = h + m[2] * attention(f"blocks.{i}.attn", norm(f"blocks.{i}.norm1", h) * (1 + m[1])
                                 + m[0])  # fmt: skip
        h = h + m[5] * mlp(f"blocks.{i}.mlp", norm(f"blocks.{i}.norm2", h) * (1 + m[4]) + m[3])
    shift, scale = np.split(linear("final_layer.adaLN_modulation.1", c), 2)
    out = linear("final_layer.linear", norm("final_layer.norm_final", h) * (1 + scale) + shift)
    out = out.reshape(SIDE, SIDE, PATCH, PATCH, CHANNELS)
    return out.transpose(4, 0, 2, 1, 3).reshape(CHANNELS, SIDE * PATCH, SIDE * PATCH)


@pytest.mark.parametrize("qk_norm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_outputs_are_those_of_the_published_network(inputs, forward, qk_norm):
    x, t, y = inputs
    weights = random_weights(qk_norm)
    network = from_state_dict(weights, "lightningdit")
    assert (network.heads, network.depth, network.mlp_ratio) == (HEADS, DEPTH, 4.0)
    assert network.parts.qk_norm == qk_norm and network.prediction == "velocity"
    out = forward(network, x, t, y, None)
    for b in range(3):
        theirs = published(weights, np.asarray(x[b]).transpose(2, 0, 1), float(t[b]), int(y[b]))
        np.testing.assert_allclose(out[b], theirs.transpose(1, 2, 0), rtol=3e-4, atol=3e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_weights_come_back_bit_for_bit(qk_norm):
    weights = random_weights(qk_norm)
    back = to_state_dict(from_state_dict(weights, "lightningdit"), "lightningdit")
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        if "freqs" in name:  # computed, and so rounded in another place
            np.testing.assert_allclose(back[name], array, atol=1e-6)
        else:
            np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_names_tell_the_family(qk_norm):
    assert shapes.fitting(random_weights(qk_norm)) == ["lightningdit"]


def test_hidden_channels_of_the_published_widths():
    """int(2/3 4 D) for each published width D; 2730 is no multiple of 128."""
    for width, hidden in ((768, 2048), (1024, 2730), (1152, 3072), (1536, 4096), (1792, 4778)):
        assert shapes._ratio([(hidden, width)], "swiglu") == 4.0
    assert shapes._ratio([(86, 32)], "swiglu") == 129 / 32  # int(2/3 129) = 86


def test_routes_may_be_given():
    network = from_state_dict(random_weights(), "lightningdit", routes=((1, 1),))
    assert network.routes == ((1, 1),)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda w: w.update({"feat_rope.freqs_cos": w["feat_rope.freqs_cos"] ** 2}),
         ["'feat_rope.freqs_cos' differs", "16 tokens"]),
        (lambda w: w.pop("feat_rope.freqs_sin"), ["missing 'feat_rope.freqs_sin'"]),
        (lambda w: w.update({"blocks.1.adaLN_modulation.1.weight": np.zeros((128, 32)),
                             "blocks.1.adaLN_modulation.1.bias": np.zeros(128)}),
         ["'blocks.1.adaLN_modulation.1.weight'", "[192, 32]"]),
        (lambda w: w.update({"blocks.0.norm1.weight": np.full(32, np.nan)}),
         ["'blocks.0.norm1.weight'", "NaN"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, named):
    weights = random_weights()
    change(weights)
    with pytest.raises(UserError) as error:
        from_state_dict(weights, "lightningdit")
    for part in named:
        assert part in str(error.value)


def test_other_families_do_not_take_these_parts(tiny):
    network = from_state_dict(random_weights(), "lightningdit")
    with pytest.raises(UserError, match="family='sit' has norm='layer', but the network has 'rms'"):
        to_state_dict(network, "sit")
    with pytest.raises(UserError, match="family='lightningdit' has norm='rms'"):
        to_state_dict(tiny, "lightningdit")


def test_half_precision_is_read(inputs):
    weights = random_weights()
    half = from_state_dict({k: jnp.asarray(v, jnp.bfloat16) for k, v in weights.items()},
                           "lightningdit")  # fmt: skip
    whole = from_state_dict(weights, "lightningdit")
    np.testing.assert_allclose(half.final.kernel[...], whole.final.kernel[...], rtol=1e-2)
