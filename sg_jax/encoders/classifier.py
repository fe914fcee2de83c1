"""The network whose hidden layer measures images, and its training.

Inception features, made for photographs of 299 pixels, mean little for an 8x8 digit or a 32x32
picture. A network trained for seconds on the same images has useful features, and its own test
accuracy shows how far to trust them. `evaluation/features.py` uses it and keeps it on disk.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sg_jax.errors import Settings, UserError, setting

KERNEL_INIT = nnx.initializers.he_normal()
ZERO_INIT = nnx.initializers.zeros_init()

SMALLEST_SIDE = 4
NORM_GROUPS = 8
WIDEST = 4096
OFTEN = 60.0  # seconds after which a line of progress is due
MOST_WEIGHTS = 200_000_000  # of the network; a thousand times what the recipes in configs/ need


def _width(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole and 1 <= value <= WIDEST and value % NORM_GROUPS == 0
    return "" if fits else f"must be a positive multiple of {NORM_GROUPS}, at most {WIDEST}."


@dataclasses.dataclass(frozen=True)
class Recipe(Settings):
    """The network's size and its training.

    The defaults are for the 8x8 digits: they get 98 to 99.7% of the test images right (five random
    splits), in about 10 seconds on one CPU core. configs/cifar10_*.py have recipes for photographs.
    """

    SECTION = "features"

    width: int = setting(32, "channels at full resolution, doubled as the side halves", rule=_width)
    blocks: int = setting(1, "residual blocks per resolution", low=1, high=100)
    features: int = setting(64, "size F of the hidden layer", low=1, high=65536)
    epochs: int = setting(30, "passes over the training images", low=1)
    batch: int = setting(64, "images per step", low=1)
    learning_rate: float = setting(
        3e-3, "its peak, after a warmup over a tenth of the steps and before a cosine to 0", above=0
    )
    weight_decay: float = setting(0.05, "AdamW's, on kernels only", low=0)
    mirror: bool = setting(False, "mirror half of the images (not digits: a mirrored 2 is not a 2)")
    seed: int = setting(0, "of weights, order and shifts", low=0, below=2**32)


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, each after its norm, with a shortcut (He et al., arXiv 1603.05027).

    Args:
      inputs: channels in.
      outputs: channels out.
      stride: 2 halves the side.
      rngs: key for the initial weights.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.norm1 = _norm(inputs, rngs)
        self.conv1 = _conv(inputs, outputs, 3, stride, KERNEL_INIT, rngs)
        self.norm2 = _norm(outputs, rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, ZERO_INIT, rngs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else _conv(inputs, outputs, 1, stride, KERNEL_INIT, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H/stride, W/stride, outputs]."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Classifier(nnx.Module):
    """Map images to features and class logits.

    Args:
      image_shape: (H, W, C). The side is halved while it is above 4: 8 -> 4, 32 -> 16 -> 8 -> 4.
      num_classes: number of classes.
      recipe: gives width, blocks and features.
      rngs: key for the initial weights.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        recipe: Recipe,
        *,
        rngs: nnx.Rngs,
    ):
        plan = _plan(image_shape, recipe)
        outputs = plan[-1][1]
        self.stem = _conv(image_shape[2], recipe.width, 3, 1, KERNEL_INIT, rngs)
        self.blocks = nnx.List([ResidualBlock(*step, rngs=rngs) for step in plan])
        self.norm = _norm(outputs, rngs)
        self.hidden = nnx.Linear(outputs, recipe.features, kernel_init=KERNEL_INIT, rngs=rngs)
        self.head = nnx.Linear(recipe.features, num_classes, kernel_init=KERNEL_INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map images [B, H, W, C] in [-1, 1] to features [B, F] and logits [B, num_classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = nnx.silu(self.norm(x)).mean(axis=(1, 2))  # [B, width of the last stage]
        features = nnx.silu(self.hidden(x))  # [B, F]
        return features, self.head(features)


def _plan(image_shape: tuple[int, int, int], recipe: Recipe) -> list[tuple[int, int, int]]:
    """Return the channels in, the channels out and the stride of each residual block."""
    side, outputs = max(image_shape[:2]), recipe.width
    plan = [(outputs, outputs, 1)] * recipe.blocks
    while side > SMALLEST_SIDE:
        side, inputs, outputs = -(-side // 2), outputs, 2 * outputs
        plan += [(inputs, outputs, 2)] + [(outputs, outputs, 1)] * (recipe.blocks - 1)
    return plan


def _conv(inputs: int, outputs: int, side: int, stride: int, init, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs, outputs, (side, side), strides=stride, use_bias=False, kernel_init=init, rngs=rngs
    )


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    # No batch statistics, because an image's score must not depend on the others in its batch.
    return nnx.GroupNorm(channels, num_groups=NORM_GROUPS, rngs=rngs)


def to_unit_range(images: jax.Array) -> jax.Array:
    """Convert uint8 of any shape, 0..255, to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def random_shift(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shift each image on its own by up to an eighth of its side, repeating its edge pixels.

    That is one pixel for 8x8 digits and four for 32x32 pictures.

    Args:
      key: random key.
      images: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """
    batch, height, width, channels = images.shape
    reach = max(1, min(height, width) // 8)
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (batch, 2), 0, 2 * reach + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (height, width, channels)
        )  # [H, W, C]

    return jax.vmap(cut)(padded, corners)


def random_mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image [B, H, W, C] left to right with probability 1/2."""
    chosen = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


@functools.cache  # so that training the same network again compiles nothing
def _compiled(image_shape: tuple[int, int, int], num_classes: int, recipe: Recipe, steps: int):
    def kernels(model):
        return jax.tree.map(lambda weight: weight.ndim > 1, model)

    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, steps // 10, steps)
    optimizer = optax.adamw(rate, weight_decay=recipe.weight_decay, mask=kernels)

    @jax.jit
    def initialise(key):
        model = Classifier(image_shape, num_classes, recipe, rngs=nnx.Rngs(key))
        return model, optimizer.init(model)

    def loss_fn(model, x, y):
        _, logits = model(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(model, state, images, labels, key):
        shift_key, mirror_key = jax.random.split(key)
        x = random_shift(shift_key, to_unit_range(images))  # [B, H, W, C]
        if recipe.mirror:
            x = random_mirror(mirror_key, x)
        loss, grads = jax.value_and_grad(loss_fn)(model, x, labels)
        updates, state = optimizer.update(grads, state, model)
        return optax.apply_updates(model, updates), state, loss

    return initialise, train_step


def fit(
    batches: Callable[[Iterable[np.ndarray]], Iterable[tuple[np.ndarray, np.ndarray]]],
    count: int,
    image_shape: tuple[int, int, int],
    *,
    num_classes: int,
    recipe: Recipe,
    log: Callable[[str], None],
) -> Classifier:
    """Train a classifier with AdamW and random shifts.

    Args:
      batches: turns indices of images, [B] each, into images uint8 [B, H, W, C] and labels int32
        [B] in 0..num_classes - 1.
      count: number of images.
      image_shape: (H, W, C).
      num_classes: number of classes.
      recipe: size and training.
      log: called with one line of progress about ten times, and at least once a minute.

    Returns:
      The trained classifier.

    Raises:
      UserError: the network is too large, or its training diverges.
    """
    check_size(image_shape, recipe)
    batch = min(recipe.batch, count)
    epoch_steps = count // batch
    initialise, train_step = _compiled(
        image_shape, num_classes, recipe, recipe.epochs * epoch_steps
    )
    started = told = time.perf_counter()
    init_key, key = jax.random.split(jax.random.key(recipe.seed))
    model, state = initialise(init_key)
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([recipe.seed, epoch]).permutation(count)
        parts = (order[i * batch : (i + 1) * batch] for i in range(epoch_steps))
        for i, (images, labels) in enumerate(batches(parts)):
            step_key = jax.random.fold_in(key, epoch * epoch_steps + i)
            model, state, loss = train_step(model, state, images, labels, step_key)
            done, last = epoch + (i + 1) / epoch_steps, i + 1 == epoch_steps
            due = last and (epoch + 1) % max(1, recipe.epochs // 10) == 0
            if due or time.perf_counter() - told > OFTEN:
                loss = float(loss)  # waits for the steps
                told = time.perf_counter()
                seconds = told - started
                step = "" if last else f", step {i + 1}/{epoch_steps}"
                log(
                    f"feature network: epoch {epoch + 1}/{recipe.epochs}{step}, loss {loss:.3f}, "
                    f"{seconds:.0f} s, {seconds / done * (recipe.epochs - done):.0f} s left"
                )
    # The last update comes after the last loss.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, model))):
        raise UserError(
            f"The feature network diverged (loss {float(loss):.3g} at the end): lower "
            f"config.features.learning_rate={recipe.learning_rate:g}."
        )
    return model


def check_size(image_shape: tuple[int, int, int], recipe: Recipe) -> None:
    """Raise a UserError if the network would have more than `MOST_WEIGHTS` weights."""
    # Those of the 3x3 convolutions, which have nearly all of them.
    weights = sum(9 * (i + o) * o for i, o, _ in _plan(image_shape, recipe))
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"config.features.width={recipe.width} and blocks={recipe.blocks} make a feature "
            f"network of {weights:,} weights for images of {image_shape[0]}x{image_shape[1]}. Its "
            f"training takes {16e-9 * weights:,.0f} GB, and at most {MOST_WEIGHTS:,} weights are "
            "allowed: lower one of them."
        )
