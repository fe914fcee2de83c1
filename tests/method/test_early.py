"""Which checkpoint a share of the training stands for, and what keeps one."""

import re

import pytest

from sg_jax.method import early


@pytest.mark.parametrize(
    "share, last, kept, found",
    [
        (0.33, 1500, [500, 1000, 1250, 1500], 500),
        (0.33, 1500, [250, 1250, 1500], 250),
        (0.33, 1500, [1250, 1500], None),  # the end of the training is not early
        (0.33, 1500, [100, 1500], None),
        (0.9, 100, [99, 100, 200], 99),  # never the strong network itself
        (0.5, 4, [1, 3], 1),  # the earlier of two as near
        (0.33, 2_000_000, range(50_000, 2_000_001, 50_000), 650_000),
    ],
)
def test_the_nearest_step_stands_for_the_share(share, last, kept, found):
    assert early.nearest(share, last, kept) == found


@pytest.mark.parametrize("last", [3, 10, 1500, 30_000])
@pytest.mark.parametrize("every", [1, 7, 250, 1000])
@pytest.mark.parametrize("share", [0.1, 0.33, 0.7])
def test_the_advice_keeps_such_a_checkpoint(share, last, every):
    advised = dict(re.findall(r"config\.checkpoint\.(\w+)=(\d+)", early.advice(share, last, every)))
    every, period = int(advised.get("every", every)), int(advised["keep_period"])
    kept = [step for step in range(every, last + 1, every) if step % period == 0]
    assert early.nearest(share, last, kept) is not None
