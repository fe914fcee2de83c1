"""Sections: each setting is declared once, and everything that knows settings follows from that."""

import dataclasses

import numpy as np
import pytest

from sg_jax.config import help, parsing, record, sections, tree
from sg_jax.data.workers import MOST_THREADS, MOST_WORKERS
from sg_jax.errors import CONTINUED, UserError, declared_in, setting
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.models.kinds import BACKBONES, reads

KINDS = {**sections.SECTIONS, "guidance": Guidance}


@dataclasses.dataclass(frozen=True)
class Train(sections.Train):
    patience: int = setting(3, "how long to wait", low=1, fixed=CONTINUED)


@pytest.fixture
def patience(monkeypatch):
    """One more key, config.train.patience, declared by its field alone."""
    monkeypatch.setitem(sections.SECTIONS, "train", Train)


def test_a_key_from_outside_has_a_default_a_check_a_help_text_and_a_place_in_the_run(
    patience, tmp_path
):
    assert parsing.merge({}).train.patience == 3
    config = parsing.parse(["--config.train.patience=5"], None, lambda: parsing.merge({}))
    assert tree.check(config).train.patience == 5
    with pytest.raises(UserError, match=r"config\.train\.patience=0 must be at least 1\."):
        tree.check(parsing.merge(dict(train=dict(patience=0))))
    with pytest.raises(UserError, match=r"patiense.*mean 'patience'"):
        parsing.merge(dict(train=dict(patiense=1)))
    assert "patience=3\n      how long to wait; at least 1; fixed" in help.explain("config.train")
    model = dict(depth=1, width=4, heads=1, patch=1, image_size=2, channels=1, num_classes=2)
    config = parsing.merge(dict(model=model, train=dict(patience=5)))
    record.prepare(str(tmp_path / "run"), config, ("a", "b"), begun=False)
    other = parsing.merge(dict(model=model, train=dict(patience=6)))
    with pytest.raises(UserError, match=r"config\.train\.patience=6 differs from the 5 "):
        record.prepare(str(tmp_path / "run"), other, ("a", "b"), begun=True)


def test_every_field_is_declared():
    for kind in (*KINDS.values(), sections.Run):
        assert set(declared_in(kind)) == {f.name for f in dataclasses.fields(kind)}
        assert all(declared.text for declared in declared_in(kind).values())


def test_the_sections_are_those_of_a_config():
    fields = {field.name for field in dataclasses.fields(sections.Config)}
    assert fields == {"seed", "guidance", *sections.SECTIONS}


def test_the_defaults_pass_their_own_check():
    tree.check(tree.defaults())


def test_help_explains_every_section_and_one_key():
    for name, kind in KINDS.items():
        text = help.explain(f"config.{name}")
        assert all(f"  {key}=" in text for key in declared_in(kind))
        assert f"  {name} " in help.explain("config")
    text = help.explain("config.train.steps")
    assert "steps=1000" in text and "batch_size" not in text
    assert "gamma_weak=0.0" in help.explain("config.guidance.sg.gamma_weak")
    with pytest.raises(UserError, match=r"no key 'gama_weak'.*gamma_weak"):
        help.explain("config.guidance.sg.gama_weak")
    text = help.explain("config.seed")
    assert "  seed=0" in text and "of weights" in text and "train" not in text
    with pytest.raises(UserError, match=r"no section config\.sed; .* Did you mean 'seed'"):
        help.explain("config.sed")


@pytest.mark.parametrize("key, most", [("workers", MOST_WORKERS), ("threads", MOST_THREADS)])
def test_the_section_of_data_has_the_limits_of_its_readers(key, most):
    tree.check(parsing.merge(dict(data={key: most})))
    with pytest.raises(UserError, match=rf"config\.data\.{key}={most + 1} .*\[0, {most}\]"):
        tree.check(parsing.merge(dict(data={key: most + 1})))


@pytest.mark.parametrize(
    "given, key",
    [
        (dict(sampler=dict(name="edm_heun", shift=3.0)), "config.sampler.shift=3.0"),
        (dict(sampler=dict(churn=1.0)), "config.sampler.churn=1.0"),
        (dict(model=dict(decoder_width=64)), "config.model.decoder_width=64"),
        (dict(model=dict(kind="ssm", heads=4)), "config.model.heads=4"),
        (dict(model=dict(state=8)), "config.model.state=8"),
        (dict(objective=dict(time="uniform", time_std=2.0)), "config.objective.time_std=2.0"),
    ],
)
def test_what_nothing_reads_is_an_error(given, key):
    with pytest.raises(UserError) as error:
        tree.check(parsing.merge(given))
    assert key in str(error.value) and "no effect" in str(error.value)


def test_a_run_of_before_may_hold_what_nothing_reads():
    saved = parsing.merge(dict(model=dict(decoder_width=64), sampler=dict(churn=1.0)))
    read = tree.without_unread(saved)
    assert (read.model.decoder_width, read.sampler.churn) == (512, 0.0)
    assert saved.model.decoder_width == 64
    tree.check(read)


def test_every_argument_of_a_backbone_is_a_key():
    for kind in BACKBONES:
        assert set(reads(kind)) <= set(declared_in(sections.Model)), kind


@pytest.mark.parametrize(
    "values, same",
    [
        (dict(scale=np.int64(2), gamma_weak=np.float32(0.5)), dict(scale=2, gamma_weak=0.5)),
        (dict(interval=[0.3, 0.8]), dict(interval=(0.3, 0.8))),
        (dict(gamma_weak=["cosine", np.float64(0.6), 0]), dict(gamma_weak=("cosine", 0.6, 0))),
    ],
)
def test_numpy_numbers_and_lists_are_taken(values, same):
    found = Guidance(**values)
    assert found == Guidance(**same) and hash(found) == hash(Guidance(**same))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Guidance(scale=True), ["guidance.scale=True", "number"]),
        (lambda: Guidance(weak_step=1.5), ["guidance.weak_step=1.5", "an int"]),
        (lambda: Guidance(ids="nestd"), ["guidance.ids='nestd'", "mean 'nested'"]),
        (lambda: Sampler(shift=float("nan")), ["sampler.shift=nan", "[0.001, 1000]"]),
        (lambda: Sampler(name=3), ["sampler.name=3", "'heun'"]),
        (lambda: Sampler("edm_heun", sigma_min=90.0), ["sampler.sigma_min=90.0", "sigma_max"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("key", ["norm", "mlp", "positions", "qk_norm", "bias", "modulation_rank"])
def test_the_help_on_a_part_of_a_block_names_the_backbones_that_have_it(key):
    having = {kind for kind in BACKBONES if key in reads(kind)}
    assert having == {"dit", "text_dit"}
    assert "of dit and text_dit" in declared_in(sections.Model)[key].text
