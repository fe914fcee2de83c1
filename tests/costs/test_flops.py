"""What a step costs: the paper's numbers, arithmetic by hand, and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from sg_jax.costs import flops
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Branch
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.sizes import geometry
from sg_jax.models.ssm import SSM
from sg_jax.models.text_dit import TextDiT


def shapes(**kwargs):
    """A network without weights."""
    return jax.eval_shape(lambda: DiT(**kwargs, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def xl():
    """SiT-XL/2 on 32x32x4 latents; 23 of its 28 blocks are routed."""
    latents = dict(image_size=32, channels=4, num_classes=1000)
    return shapes(**latents, **geometry("XL/2"), routes=((2, 24),))


CFG = Guidance(1.5, weak_label="null")
SG_FLOPS = Guidance(1.5, 0.5, 0.9)


@pytest.mark.parametrize("guidance, paper", [(Guidance(), 114.42), (CFG, 228.84)])
def test_gflops_of_the_paper(xl, guidance, paper):
    assert flops.sampling_step(xl, guidance) / 1e9 == pytest.approx(paper, rel=5e-3)


def test_sg_costs_less_than_one_unguided_step(xl):
    """97.67 in the paper, which runs both predictions whole; the head of two blocks is shared."""
    ours = flops.sampling_step(xl, SG_FLOPS) / 1e9
    shared = 2 * 12 * 1152**2 * 256 / 1e9  # two blocks on 256 tokens, run once instead of twice
    assert ours < 97.67
    assert ours == pytest.approx(97.67 - shared, rel=5e-3)


def test_cfg_with_the_same_sparsity_shares_nothing(xl):
    both = flops.sampling_step(xl, Guidance(1.5, 0.5, 0.9, "null")) / 1e9
    assert both == pytest.approx(97.67, rel=5e-3)


@pytest.fixture(scope="module")
def small():
    """Width 8, 16 tokens of 2x2x1, MLP ratio 4; the middle one of 3 blocks is routed."""
    shape = dict(image_size=8, channels=1, num_classes=3, patch=2, width=8, depth=3, heads=2)
    return shapes(**shape, routes=((1, 1),))


def by_hand(*tokens, embeddings=1, heads=1, attention=False):
    """Multiply-adds of width 8 for blocks with these numbers of tokens."""
    # Per token: q, k, v, output 4 D^2 and the MLP 2 * 4 D^2; per image: adaLN D x 6 D.
    blocks = sum(12 * 64 * k + 6 * 64 + attention * 2 * k * k * 8 for k in tokens)
    embedding = 256 * 8 + 8 * 8 + 16 * 4 * 8  # time in two layers, then 16 patches of 4 values
    head = 8 * 16 + 16 * 8 * 4  # shift and scale, then 16 tokens into 4 values
    return blocks + embeddings * embedding + heads * head


def test_multiply_adds_by_hand(small):
    assert flops.sampling_step(small, Guidance()) == by_hand(16, 16, 16)
    assert flops.sampling_step(small, Guidance(gamma_strong=0.5)) == by_hand(16, 8, 16)
    assert flops.sampling_step(small, Guidance(gamma_strong=1.0)) == by_hand(16, 16)


def test_the_first_block_runs_once_for_two_predictions_with_one_label(small):
    sg = flops.sampling_step(small, Guidance(2.0, 0.25, 0.75))
    assert sg == by_hand(16, 12, 4, 16, 16, heads=2)
    skipping = flops.sampling_step(small, Guidance(2.0, 0.0, 1.0))
    assert skipping == by_hand(16, 16, 16, 16, heads=2)


def test_an_omega_of_1_costs_one_prediction(small):
    assert flops.sampling_step(small, Guidance(1.0, 0.0, 0.75)) == by_hand(16, 16, 16)


def test_the_full_count_is_twice_with_attention(small):
    full = flops.sampling_step(small, Guidance(gamma_strong=0.5), full=True)
    assert full == 2 * by_hand(16, 8, 16, attention=True)


def test_training_costs_three_forwards_per_image(small):
    assert flops.training_step(small, 0.5, 10) == 30 * by_hand(16, 8, 16)
    full = flops.training_step(small, 0.5, 10, full=True)
    assert full == 60 * by_hand(16, 8, 16, attention=True)


def test_rates_that_are_drawn_cost_their_mean(small):
    drawn = flops.training_step(small, ((0.5, 0.25), (1.0, 0.75)), 10)
    assert drawn == 30 * (0.25 * by_hand(16, 8, 16) + 0.75 * by_hand(16, 16))


def test_a_teacher_costs_a_sampling_step_of_each_image(small):
    """Outside of an interval the strong prediction alone is made, at every time."""
    alone, sg = flops.training_step(small, 0.5, 10), Guidance(3.0, 0.0, 0.5)
    within = Guidance(3.0, 0.0, 0.5, interval=(0.2, 0.8))
    extra = [flops.training_step(small, 0.5, 10, teacher=g) - alone for g in (sg, within)]
    assert extra[0] == 10 * flops.sampling_step(small, sg)
    assert extra[1] == extra[0] + 10 * flops.sampling_step(small, Guidance())


def test_training_an_inner_head_costs_it_three_times():
    """Its modulation 8 x 16, and its layer 8 x 4 for 16 tokens."""
    shape = dict(image_size=8, channels=1, num_classes=3, patch=2, width=8, depth=3, heads=2)
    plain, inner = (flops.training_step(shapes(**shape, inner=n), 0.0, 10) for n in (0, 1))
    assert inner - plain == 30 * (8 * 16 + 16 * 8 * 4)


@pytest.fixture(scope="module")
def unrolled():
    """Three segments of one block: XLA counts the body of a longer scan only once."""
    shape = dict(image_size=16, channels=4, num_classes=3, patch=2, width=256, depth=3, heads=4)
    return shapes(**shape, routes=((1, 1),))


def xla_count(model, batch, labels, keeps):
    """FLOPs of the compiled network, or of its branches where there are several `keeps`."""

    def spec(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    ids = [None if k == model.tokens else [spec((batch, k), jnp.int32)] for k in keeps]
    run = jax.jit(
        lambda model, x, t, ys, ids: model.branches(
            x, t, [Branch(ys[g % labels], i) for g, i in enumerate(ids)]
        )
    )
    image, y = spec((batch, 16, 16, 4)), spec((batch,), jnp.int32)
    lowered = run.lower(model, image, spec((batch,)), [y] * labels, ids)
    return lowered.compile().cost_analysis()["flops"] / batch


@pytest.mark.parametrize(
    "guidance, labels, keeps",
    [
        (Guidance(), 1, [64]),
        (Guidance(gamma_strong=0.5), 1, [32]),
        (Guidance(2.0, 0.25, 0.75), 1, [48, 16]),
        (CFG, 2, [64, 64]),
    ],
    ids=["dense", "sparse", "sg", "cfg"],
)
def test_the_full_count_is_xlas_but_for_elementwise_work(unrolled, guidance, labels, keeps):
    """At width 256 norms, activations and the like come to less than 5%."""
    ratio = xla_count(unrolled, 2, labels, keeps) / flops.sampling_step(
        unrolled, guidance, full=True
    )
    assert 1.0 <= ratio < 1.05


@pytest.fixture(scope="module")
def sit():
    """SiT-XL/2 as the paper has it: its head predicts 8 channels, of which 4 count."""
    latents = dict(image_size=32, channels=4, num_classes=1000, learn_sigma=True)
    return shapes(**latents, **geometry("XL/2"), routes=((2, 24),))


@pytest.mark.parametrize(
    "name, paper",
    [
        ("unguided", 114.42),
        ("cfg", 228.84),
        ("ag", 228.84),
        ("icg", 228.84),
        ("sg_flops", 97.67),
        ("sg_fid", 173.16),
    ],
)
def test_each_alone_is_the_papers_count(sit, name, paper):
    cost = flops.sampling_step(sit, PRESETS[name], shared_head=False) / 1e9
    assert cost == pytest.approx(paper, rel=5e-3)


def test_what_sharing_saves(sit):
    """SG_FLOPS shares two blocks, two networks none; path-drop skips 23 blocks of one branch."""

    def cost(name, **options):
        return flops.sampling_step(sit, PRESETS[name], **options) / 1e9

    assert cost("sg_flops") < 90
    assert cost("sg_fid") == cost("sg_fid", shared_head=False)
    assert cost("ag") == cost("ag", shared_head=False)
    skipped = 23 * (12 * 1152**2 * 256 + 6 * 1152**2) / 1e9
    alone = cost("pdg", shared_head=False)
    assert alone == pytest.approx(2 * cost("unguided") - skipped, rel=1e-3)


def test_half_an_interval_is_half_the_weak_predictions(sit):
    """Of 40 steps, guidance acts on those that begin at 0.25, 0.275, ..., 0.725."""
    part = Guidance(1.5, weak_label="null", interval=(0.24, 0.74))
    unguided = flops.sampling_step(sit, Guidance())
    alone = flops.sampling_step(sit, part, shared_head=False)
    assert alone == pytest.approx(1.5 * unguided)


def test_a_schedule_costs_the_mean_of_its_rates(small):
    """16 tokens at 4 steps of their own stretch: 16, 12, 8 and 4 kept in the routed block."""
    guidance = Guidance(gamma_strong=("linear", 0.0, 0.75), segments=4)
    expected = sum(by_hand(16, k, 16) for k in (16, 12, 8, 4)) / 4
    assert flops.sampling_step(small, guidance, steps=4) == pytest.approx(expected)


def test_skipped_blocks_cost_nothing(small):
    """Of three blocks one is left out of the further prediction, drawn or not."""
    one = by_hand(16, 16, 16)
    more = by_hand(16, 16)
    for skip in (1, (0,), (2,)):
        assert flops.sampling_step(small, Guidance(skip=skip, skip_scale=2.0)) == one + more
    assert flops.sampling_step(small, Guidance(gamma_strong=0.5, skip=(1,), skip_scale=2.0)) == (
        by_hand(16, 8, 16) + more
    )
    drawn = (more + by_hand(16, 8)) / 2  # block 1, which is routed, or block 2
    assert flops.sampling_step(small, Guidance(gamma_strong=0.5, skip=1, skip_scale=2.0)) == (
        by_hand(16, 8, 16) + drawn
    )


def test_a_weak_prediction_that_borrows_costs_the_blocks_after_the_route(small):
    borrowed = flops.sampling_step(small, Guidance(2.0, 0.25, 0.75, ids="borrowed"))
    assert borrowed == by_hand(16, 12, 16, 16, heads=2)
    alone = Guidance(2.0, 0.25, 0.75, ids="borrowed")
    assert flops.sampling_step(small, alone, shared_head=False) == (
        by_hand(16, 12, 16) + by_hand(16, 16)
    )


def test_the_inner_head_costs_a_head(small):
    headed = shapes(
        image_size=8, channels=1, num_classes=3, patch=2, width=8, depth=3, heads=2,
        routes=((1, 1),), inner=2,
    )  # fmt: skip
    assert flops.sampling_step(headed, Guidance()) == by_hand(16, 16, 16)
    assert flops.sampling_step(headed, Guidance(inner_scale=2.0)) == by_hand(16, 16, 16, heads=2)
    assert flops.training_step(headed, 0.0, 4) == 3 * 4 * by_hand(16, 16, 16, heads=2)


def test_what_is_used_again_is_counted_where_it_is_computed(small):
    """Of 8 steps every third, 3, computes the weak prediction; by Heun once, in its first half."""
    sg = dict(scale=2.0, gamma_weak=0.75)
    alone, both = by_hand(16, 16, 16), flops.sampling_step(small, Guidance(**sg))
    again = Guidance(**sg, refresh=3)
    found = flops.sampling_step(small, again, steps=8)
    assert found == pytest.approx((3 * both + 5 * alone) / 8)
    heun = flops.sampling_step(small, again, steps=8, sampler=Sampler("heun"))
    assert heun == pytest.approx((3 * both + 13 * alone) / 8)


def test_steps_of_0_and_noise_on_the_time(small):
    """With noise the two predictions share no block."""
    alone = by_hand(16, 16, 16)
    cfg = Guidance(2.0, weak_label="null", zero_steps=2)
    both = flops.sampling_step(small, Guidance(2.0, weak_label="null"))
    assert flops.sampling_step(small, cfg, steps=8) == pytest.approx(0.75 * both)
    noisy = flops.sampling_step(small, Guidance(2.0, time_noise=1.0))
    assert noisy == by_hand(*[16] * 6, heads=2) != alone


@pytest.mark.parametrize("keep", [64, 32, 8])
def test_maskdits_full_count_is_xlas(keep):
    """One encoder and one decoder block; what is elementwise comes to less than 5%."""
    shape = dict(image_size=16, channels=4, num_classes=3, patch=2, width=256, depth=1, heads=4)
    decoder = dict(decoder_width=256, decoder_depth=1, decoder_heads=4)
    model = jax.eval_shape(lambda: MaskDiT(**shape, **decoder, rngs=nnx.Rngs(0)))
    count = flops.sampling_step(model, Guidance(gamma_strong=1 - keep / 64), full=True)
    assert 1.0 <= xla_count(model, 2, 1, [keep]) / count < 1.05


def test_maskdit_shares_no_block():
    shape = dict(image_size=8, channels=1, num_classes=3, patch=2, width=8, depth=3, heads=2)
    decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)
    model = jax.eval_shape(lambda: MaskDiT(**shape, **decoder, rngs=nnx.Rngs(0)))

    def alone(kept):
        """Three encoder blocks and the way to the decoder, its one block and the head."""
        return by_hand(*[kept] * 3, 16, embeddings=0) + 2 * 8 * 8 + kept * 8 * 8

    both = flops.sampling_step(model, Guidance(1.5, 0.25, 0.75))
    assert both == by_hand(embeddings=1, heads=0) + alone(12) + alone(4)


def test_the_linear_layers_of_an_ssm_are_xlas():
    """A scan's body is counted once by XLA, so sequences of one chunk of one token: no loops.

    One token, hence linear layers and one token's scan; elementwise work is less than 10%.
    """
    shape = dict(image_size=2, channels=4, num_classes=3, patch=2, width=256, depth=1)
    model = jax.eval_shape(lambda: SSM(**shape, rngs=nnx.Rngs(0)))

    def spec(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    arguments = (spec((8, 2, 2, 4)), spec((8,)), spec((8,), jnp.int32))
    lowered = jax.jit(lambda model, *args: model(*args)).lower(model, *arguments)
    xla = lowered.compile().cost_analysis()["flops"] / 8
    assert 1.0 <= xla / flops.sampling_step(model, Guidance(), full=True) < 1.1


def text_dit(**changes):
    """Width 8, 16 tokens, texts of 3 tokens with 5 features; the second of 2 blocks is routed."""
    shape = dict(image_size=8, channels=1, patch=2, width=8, depth=2, heads=2, routes=((1, 1),))
    parts = dict(norm="rms", mlp="swiglu", positions="rotary", bias=False, modulation_rank=2)
    made = {**shape, **parts, "text_length": 3, "text_features": 5, **changes}
    return jax.eval_shape(lambda: TextDiT(**made, rngs=nnx.Rngs(0)))


def text_by_hand(*tokens, texts=1, heads=1, mixing=False):
    """Multiply-adds of `text_dit` for blocks with these numbers of tokens.

    Of 8/3 D hidden channels int(2/3 32) = 21 are left.
    """
    total = 0
    for k in tokens:
        total += 4 * 64 * k + 3 * 8 * 21 * k  # q, k, v, output; gate, hidden, output
        total += 2 * 64 * k + 2 * 64 * 3  # query and output of tokens; key and value of text
        total += 8 * 2 + 2 * 48  # scales, shifts and gates, by rank 2
        total += mixing * (2 * k * k * 8 + 2 * k * 3 * 8)
    layer = 4 * 64 * 3 + 3 * 8 * 21 * 3 + mixing * 2 * 3 * 3 * 8
    total += texts * (5 * 8 * 3 + 2 * layer)  # features into channels, then two layers
    return total + by_hand(heads=heads)


def test_a_network_under_text_by_hand():
    model = text_dit()
    assert flops.sampling_step(model, Guidance()) == text_by_hand(16, 16)
    both = flops.sampling_step(model, Guidance(), full=True)
    assert both == 2 * text_by_hand(16, 16, mixing=True)
    assert flops.training_step(model, 0.5, 4) == 3 * 4 * text_by_hand(16, 8)


def test_each_text_is_refined_once():
    """SG's two predictions have one text and share the first block; CFG's have two."""
    model = text_dit()
    sg = flops.sampling_step(model, Guidance(2.0, 0.25, 0.75))
    assert sg == text_by_hand(16, 12, 4, heads=2)
    both = flops.sampling_step(model, Guidance(2.0, 0.25, 0.75, "null"))
    assert both == text_by_hand(16, 12, 16, 4, texts=2, heads=2)


def test_bytes_take_no_product():
    """A table of bytes instead of features saves 5 * 8 * 3."""
    assert text_dit(text_features=0).conditioning.macs(False) == (
        text_dit().conditioning.macs(False) - 5 * 8 * 3
    )
