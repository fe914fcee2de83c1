"""The report of a compiled program."""

import types

import jax
import pytest

from sg_jax.costs import compiled
from sg_jax.errors import UserError


def test_what_does_not_fit_is_said_with_a_remedy():
    message = (
        "RESOURCE_EXHAUSTED: the total memory required (20.50G) exceeds available HBM (15.75G)."
    )
    assert compiled.overflow(message) == {"peak_gib": 20.5}
    report = dict(
        topology="v5e:2x2", devices=4, mesh=dict(data=4), program="A step", fits=False,
        peak_gib=20.5, hbm_gib=15.75,
    )  # fmt: skip
    text = compiled.render(report, "a smaller batch")
    assert "4.75 GiB" in text and "Try a smaller batch." in text
    with pytest.raises(RuntimeError, match="something else"):
        compiled.overflow("something else")


def test_a_compiler_of_another_version_is_named(monkeypatch):
    def unreadable():
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update should have 1 operands")

    program = types.SimpleNamespace(memory_analysis=lambda: None, as_text=unreadable)
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda name: f"9.9 of {name}")
    with pytest.raises(UserError, match=r"libtpu 9\.9 of libtpu .*1 operands.*'jax\[tpu\]'"):
        compiled.analyse(program, "v5e:2x2", 1.0)
