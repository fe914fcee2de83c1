"""A file of SiT's weights and a run that was made of it, for the tests of what goes in and out."""

import numpy as np
import pytest
from sit_networks import make

from sg_jax.config import parsing
from sg_jax.modes import import_
from sg_jax.modes.base import Job
from sg_jax.weights import convert


@pytest.fixture(scope="session")
def sit(tmp_path_factory):
    """A file of SiT's weights, and its network."""
    path = tmp_path_factory.mktemp("published") / "SiT.npz"
    network = make(learn_sigma=True)
    np.savez(path, **convert.to_state_dict(network, "sit"))
    return path, network


@pytest.fixture(scope="session")
def imported(sit, tmp_path_factory):
    """A run of that file, with a route."""
    workdir = tmp_path_factory.mktemp("runs") / "sit"
    own = {"own": {"scale": 2.0, "gamma_weak": 0.75}}
    config = parsing.merge(
        {"model": {"routes": ((1, 1),)}, "train": {"ema_decays": (0.9,)}, "guidance": own}
    )
    import_.run(Job(str(workdir), options={"from": str(sit[0]), "family": "sit"}, config=config))
    return workdir
