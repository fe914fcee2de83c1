"""The guidance settings that RESULTS.md compares, by name; the CIFAR-10 configs share them.

The number at the end of a name is the scale in percent (sg_150 has omega 1.5). For ag and ag_sg
it is the step of the checkpoint that makes the weak prediction.
"""


def settings(scales, weak_steps, last):
    """Return guidance settings by name.

    Args:
      scales: omegas, in percent.
      weak_steps: steps of the checkpoints that make autoguidance's weak predictions.
      last: the last training step.
    """
    of_scale = dict(
        cfg=dict(weak_label="null"),
        icg=dict(weak_label="random"),
        pdg=dict(weak_label="null", gamma_weak=1.0),
        sg=dict(gamma_weak=0.75),
        sg_flops=dict(gamma_strong=0.5, gamma_weak=0.9),
        cfg_sg=dict(weak_label="null", gamma_strong=0.2, gamma_weak=0.7),
        sg_fid=dict(  # the rates cross: strong starts dense, weak ends dense
            gamma_strong=("cosine", 0.0, 0.6),
            gamma_weak=("cosine", 0.6, 0.0),
            weak_step=weak_steps[0],
        ),
    )
    of_step = dict(ag=dict(), ag_sg=dict(gamma_weak=0.5))
    intervals = dict(early=(0.0, 0.5), middle=(0.25, 0.75), late=(0.5, 1.0))  # of t; 0 is noise
    layouts = ("stratified", "nested")
    return {
        **{
            f"{name}_{scale}": dict(scale=scale / 100, **setting)
            for name, setting in of_scale.items()
            for scale in scales
        },
        **{
            f"{name}_{step}": dict(scale=1.5, weak_step=step, **setting)
            for name, setting in of_step.items()
            for step in weak_steps
        },
        **{
            f"{name}_{when}": dict(scale=2.0, interval=interval, **of_scale[name])
            for name in ("cfg", "sg")
            for when, interval in intervals.items()
        },
        **{
            f"{name}_{ids}": dict(scale=1.5, ids=ids, **of_scale[name])
            for name in ("sg", "sg_flops")
            for ids in layouts
        },
        # 0.9 keeps 26 of 256 tokens and 7 of 64. 0.875 keeps 32 and 8, which fill tiles of 8.
        "sg_sparse": dict(scale=1.5, gamma_weak=0.9),
        "sg_tiles": dict(scale=1.5, gamma_weak=0.875),
        "sg_flops_tiles": dict(scale=1.5, gamma_strong=0.5, gamma_weak=0.875),
        # sg_150 with two networks of equal weights, which share no computation.
        "sg_apart": dict(scale=1.5, gamma_weak=0.75, weak_step=last),
    }


def for_dense(names):
    """Return the names of the settings to score a dense network with."""
    kinds = ("unguided", "cfg_", "icg_", "ag_", "sg_", "sg_flops_")
    return tuple(name for name in names if name.rstrip("0123456789") in kinds)


def for_masking(names):
    """Return the names of the settings to score a masking network with.

    These leave out the settings that vary details of sampling, and path-drop guidance, which keeps
    no token, while masking needs at least one.
    """
    return tuple(
        name
        for name in names
        if name == "unguided" or (name[-1].isdigit() and not name.startswith("pdg_"))
    )
