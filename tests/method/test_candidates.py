"""The table of candidates: its order by hand, and that every method has enough."""

import dataclasses

from sg_jax.method.candidates import METHODS, UNGUIDED, crossed, each, rates, title
from sg_jax.method.guidance import Guidance


def test_values_are_crossed_from_the_first_of_each_list_on():
    found = crossed(each("scale", 3.0, 2.0, 4.0), rates((0.0, 0.9), (0.5, 0.75)), ids="nested")
    assert [(g.scale, g.gamma_strong, g.gamma_weak) for g in found] == [
        (3.0, 0.0, 0.9),  # 0 + 0
        (3.0, 0.5, 0.75), (2.0, 0.0, 0.9),  # 0 + 1, 1 + 0
        (2.0, 0.5, 0.75), (4.0, 0.0, 0.9),
        (4.0, 0.5, 0.75),
    ]  # fmt: skip
    assert {g.ids for g in found} == {"nested"}


def test_every_method_has_nineteen_different_candidates_with_one_early_checkpoint():
    for method, candidates in METHODS.items():
        alike = {dataclasses.replace(g, weak_step=0) for g in candidates}
        assert len(alike) >= (1 if method == UNGUIDED else 19), method
        assert len(set(candidates)) == len(candidates)
        assert all(g.guided for g in candidates) == (method != UNGUIDED)


def test_methods_are_told_apart():
    every = [g for candidates in METHODS.values() for g in candidates]
    assert len(set(every)) == len(every)
    assert METHODS[UNGUIDED] == (Guidance(),)
    scales = {g.scale for g in METHODS["cfg"]}
    assert min(scales) == 1.05 and max(scales) == 3.0


def test_figures_name_methods_as_papers_do():
    names = {"sg": "SG", "cfg_sg": "CFG+SG", "unguided": "no guidance", "my_own": "my_own"}
    assert {name: title(name) for name in names} == names
    assert len({title(name) for name in METHODS}) == len(METHODS)
