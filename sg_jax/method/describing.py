"""A guidance setting in a few words, for tables and pictures."""

from typing import Any

from sg_jax.method import schedule
from sg_jax.method.weak import RAW, WEAK_LABELS


def describe(setting: Any) -> str:
    """Return a `Guidance` in a few words, such as "ω 1.5, γ 0.5 / 0.9"."""
    strong, weak = schedule.text(setting.gamma_strong), schedule.text(setting.gamma_weak)
    if not setting.guided:
        return f"no guidance, γ {strong}"
    words = [f"γ {strong}"]
    if setting.weak_acts:
        words = [f"ω {schedule.text(setting.scale)}, γ {strong} / {weak}", *_weak(setting)]
    if setting.skip_acts:
        blocks = setting.skip
        left_out = "+".join(map(str, blocks)) if isinstance(blocks, tuple) else f"{blocks} drawn"
        words[-1] += ","
        words.append(f"skip {left_out} ω {schedule.text(setting.skip_scale)}")
    if setting.inner_acts:
        words[-1] += ","
        words.append(f"inner ω {schedule.text(setting.inner_scale)}")
    words += [setting.ids] if setting.ids != "uniform" else []
    words += [f"every {setting.refresh} steps"] if setting.refresh > 1 else []
    for name, off in {"parallel": 1.0, "norm": 0.0, "momentum": 0.0}.items():
        value = getattr(setting, name)
        words += [f"{name} {value:g}"] if value != off else []
    words += ["rescaled"] if setting.rescale else []
    words += [f"v 0 before step {setting.zero_steps}"] if setting.zero_steps else []
    if setting.interval != (0.0, 1.0):
        words.append(f"t {setting.interval[0]:g}–{setting.interval[1]:g}")
    words += [f"the first {setting.channels} channels"] if setting.channels else []
    return " ".join(words)


def _weak(setting: Any) -> list[str]:
    """Return what sets the weak prediction apart from the strong one, besides its rate."""
    words = [w] if (w := WEAK_LABELS[setting.weak_label].words) else []
    if setting.weak_step:
        at = setting.weak_step
        words.append(f"{100 * at:g}% trained" if isinstance(at, float) else f"step {at}")
    words += [setting.weak_workdir] if setting.weak_workdir else []
    if weights := setting.weak_weights:
        words.append("raw weights" if weights == RAW else f"average {weights}")
    if setting.time_noise:
        power = f"^{setting.time_power:g}" if setting.time_power != 1 else ""
        words.append(f"time noise {setting.time_noise:g}{power}")
    return words
