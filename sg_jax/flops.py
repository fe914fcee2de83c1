"""What a step costs, counted from the shapes of the matrix products.

The paper counts multiply-adds of linear layers and leaves out the two products of attention; the
full count is 2 per multiply-add with attention in. Norms, softmax and the like count in neither.
"""

from sg_jax import tokens
from sg_jax.guidance import Guidance
from sg_jax.models.dit import DiT


def block(model: DiT, count: int, attention: bool) -> float:
    """Return multiply-adds of one block on `count` tokens of one image.

    (4 + 2 r) D^2 K + 6 D^2, and 2 K^2 D for attention's products; r is the MLP ratio.
    """
    d = model.width
    linear = (4 + 2 * model.mlp_ratio) * d * d * count + 6 * d * d
    return linear + (2 * count * count * d if attention else 0)


def forward(model: DiT, gammas: tuple[float, ...], shared: bool, attention: bool) -> float:
    """Return multiply-adds per image of one call with a branch for each of `gammas`.

    Args:
      model: the network (its shapes).
      gammas: sparsity rate of each branch.
      shared: whether the branches have one label, so that what comes before the first route
        runs once.
      attention: whether attention's products count.
    """
    n, d, pixels = model.tokens, model.width, model.patch**2 * model.channels
    branches, total, common = len(gammas), 0.0, shared
    for segment in model.blocks.segments:
        blocks = segment.stop - segment.start
        keeps = [n if segment.route is None else tokens.keep_count(n, g) for g in gammas]
        common = common and all(k == n for k in keeps)
        if common:
            total += blocks * block(model, n, attention)
        else:
            total += blocks * sum(block(model, k, attention) for k in keeps if k)
    embeddings = 256 * d + d * d + n * pixels * d
    head = 2 * d * d + n * d * pixels * (1 + model.learn_sigma)
    return total + embeddings + head * branches


def sampling_step(model: DiT, guidance: Guidance, *, full: bool = False) -> float:
    """Return FLOPs per image of one sampling step, as our program computes it.

    In the paper's convention by default; `full` counts 2 per multiply-add and attention.
    """
    shared = not (guidance.guided and guidance.weak_label == "null")
    return (2 if full else 1) * forward(model, guidance.gammas, shared, full)


def training_step(model: DiT, gamma: float, batch_size: int, *, full: bool = False) -> float:
    """Return FLOPs of one training step on a batch: forward, and twice that for the backward."""
    return (2 if full else 1) * 3 * batch_size * forward(model, (gamma,), True, full)
