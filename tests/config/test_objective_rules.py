"""What the parts of the objective require of each other, of the network and of the run."""

import jax
import pytest

from sg_jax.config import experiment, geometry, parsing
from sg_jax.errors import UserError

MODEL = dict(depth=4, width=8, heads=2, patch=2, routes=((1, 2),))
DENSE = dict(model=dict(routes=()))
MASKING = dict(model=dict(kind="maskdit", routes=(), decoder_width=8, decoder_heads=2))


def build(**changes):
    model = {**MODEL, **changes.get("model", {})}
    objective = dict(gamma=0.0) if not model["routes"] else {}
    objective.update(changes.get("objective", {}))
    config = parsing.merge({**changes, "model": model, "objective": objective})
    return experiment.build(geometry.complete(config, (8, 8, 1), 10), jax.devices()[:1])


RATES = ((0.5, 0.5), (1.0, 0.5))


@pytest.mark.parametrize(
    "changes, named",
    [
        (
            dict(objective=dict(rates=RATES), train=dict(gammas=((5, 0.0),))),
            ["config.objective.rates=((0.5, 0.5)", "config.train.gammas=((5, 0.0),)"],
        ),
        (
            dict(objective=dict(rates=RATES), **DENSE),
            ["config.objective.rates: gamma=0.5", "routes"],
        ),
        (
            dict(objective=dict(rates=RATES), **MASKING),
            ["config.objective.rates: gamma=1", "masking"],
        ),
        (dict(objective=dict(route_loss=0.1), **DENSE), ["route_loss=0.1", "routes is empty"]),
        (dict(objective=dict(route_loss=0.1), **MASKING), ["route_loss=0.1", "'maskdit'"]),
        (dict(objective=dict(inner=0.25)), ["config.objective.inner=0.25", "config.model.inner=0"]),
        (dict(objective=dict(distill="sgg")), ["distill='sgg'", "Did you mean 'sg'?"]),
        (dict(objective=dict(distill="sg")), ["distill='sg'", "config.train.init_from"]),
        (
            dict(objective=dict(distill="sg"), train=dict(init_from="run"),
                 guidance=dict(sg=dict(scale=("linear", 1.0, 2.0)))),
            ["config.guidance.sg.scale=('linear'", "give a number"],
        ),
        (
            dict(guidance=dict(sg=dict(weak_weights="0.9")), train=dict(then=("sample",))),
            ["config.guidance.sg.weak_weights='0.9'", "config.train.ema_decays=()", "'raw'"],
        ),
        (dict(guidance=dict(sg=dict(weak_weights="Raw"))), ["weak_weights='Raw'", "'0.99'"]),
        (dict(guidance=dict(sg=dict(weak_weights="1.0"))), ["weak_weights='1.0'", "a decay"]),
    ],
)  # fmt: skip
def test_what_excludes_each_other_is_named(changes, named):
    with pytest.raises(UserError) as error:
        build(**changes)
    assert all(part in str(error.value) for part in named), error.value


def test_rates_of_the_steps():
    built = build(objective=dict(rates=RATES))
    assert built.rates_at(1) == built.rates_at(1000) == RATES
    assert built.training_mixes == (RATES,) and built.training_rates == (0.5, 1.0)
    staged = build(train=dict(gammas=((5, 0.0),)))
    assert staged.training_mixes == (((0.5, 1.0),), ((0.0, 1.0),))
    assert built.heldout_rates == RATES and staged.heldout_rates == ((0.0, 1.0),)


def test_averages_that_are_kept_may_guide():
    sg = dict(weak_weights="0.90", scale=2.0)
    built = build(
        guidance=dict(sg=sg), train=dict(then=("sample",), ema_decays=(0.9,), evaluate_every=5,
                                         evaluate_guidance="sg")
    )  # fmt: skip
    assert built.settings["sg"].two_networks and not built.settings["sg"].other_checkpoint


@pytest.mark.parametrize("name, count", [("", 0), ("sg", 1), ("ag", 2)])
def test_autoguidance_teaches_by_two_networks(name, count):
    built = build(objective=dict(distill=name), train=dict(init_from="run" if name else ""))
    assert built.teachers == count
