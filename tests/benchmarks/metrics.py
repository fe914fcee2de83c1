"""Images per second of Inception and DINOv2, on a TPU or against PyTorch on one CPU core.

    python tests/benchmarks/metrics.py                           # by the TPU compiler's estimate
    taskset -c 1 python tests/benchmarks/metrics.py --peer       # against PyTorch, in turns
    taskset -c 1 python tests/benchmarks/metrics.py --peer --only dinov2 --size large --images 2

The estimate needs libtpu but no TPU. It compiles the whole call for one chip, including the
resizing of uint8 images of 256 pixels. Against PyTorch (pip install torch torch-fidelity
transformers), both networks have the same random weights and must return the same values, to
within 1e-4 of the largest. Then they take turns. Times are CPU times, so other processes on the
core matter little, and each ratio is the median over rounds. PyTorch runs as published:
torch-fidelity's module, also with its arrays in channels-last order, and transformers' Dinov2Model
on pixels that are already resized.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from sg_jax.costs import compiled, encoders
from sg_jax.costs.chips import devices_of
from sg_jax.encoders import dinov2, inception
from sg_jax.weights import encoder_names
from sg_jax.weights.checkpoints import named
from sg_jax.weights.encoders import load_encoder

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peer"))
import turns

SIZES = {
    "small": dinov2.Sizes(384, 12, 6, 1536, False, 14, 37),
    "base": dinov2.Sizes(768, 12, 12, 3072, False, 14, 37),
    "large": dinov2.Sizes(1024, 24, 16, 4096, False, 14, 37),
}
SIDE = 256
CLOSE = 1e-4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2", help="one chip of it is used")
    parser.add_argument("--peer", action="store_true", help="measure here, beside PyTorch")
    parser.add_argument("--images", type=int, default=32, help="at a time")
    parser.add_argument("--size", choices=SIZES, default="large", help="of DINOv2")
    parser.add_argument("--only", choices=("inception", "dinov2"))
    parser.add_argument("--dtype", default="", help="of the estimate; by default both")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    for name in ("inception", "dinov2"):
        if given.only in (None, name):
            race(name, given) if given.peer else estimate(name, given)


def of_shapes(name, size, dtype):
    """Return a network without weights."""
    if name == "inception":
        return inception.of_shapes(name, dtype)
    return dinov2.of_shapes(name, SIZES[size], dtype)


def estimate(name, given):
    """Print images/s, MFU and memory on one chip, by the TPU compiler's estimate."""
    _, devices = devices_of(given.topology)
    here = SingleDeviceSharding(devices[0])
    program = jax.jit(lambda network, images: network(images))
    for dtype in [given.dtype] if given.dtype else ["float32", "bfloat16"]:
        network = of_shapes(name, given.size, jnp.dtype(dtype))
        images = jax.ShapeDtypeStruct((given.images, SIDE, SIDE, 3), jnp.uint8)
        work = given.images * encoders.features(network, SIDE, SIDE)
        network, images = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), (network, images)
        )
        found = compiled.measure(program.lower(network, images), given.topology, work)
        if "cycles" not in found:
            print(f"{name}, {dtype}: needs {found['peak_gib']:.1f} GiB", flush=True)
            continue
        total = sum(found["cycles"].values())
        kinds = ", ".join(f"{kind} {n / total:.0%}" for kind, n in found["cycles"].items())
        each = found["step_seconds"] / given.images
        print(f"{name}, {dtype}, {given.images} images: {work / given.images / 1e9:.1f} GFLOPs, "
              f"{1e3 * each:.2f} ms an image, {found['mfu']:.1%} of the bf16 peak, "
              f"{found['peak_gib']:.2f} GiB, estimated; {kinds}; compiled in "
              f"{found['compile_seconds']:.0f} s", flush=True)  # fmt: skip


def race(name, given):
    """Print images/s of ours and of PyTorch's, and their ratios, on this machine's CPU."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    images = np.random.default_rng(0).integers(0, 256, (given.images, SIDE, SIDE, 3), np.uint8)
    peers, network, call = (_inception if name == "inception" else _dinov2)(torch, images, given)
    ours = np.asarray(call())
    for label, peer in peers.items():
        theirs = peer().numpy()
        far = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert far < CLOSE, f"{label} and ours differ by {far:.1e}"
    raced = turns.race([call, *peers.values()], given.rounds, time.process_time)
    cores = len(os.sched_getaffinity(0))
    rate = given.images / np.median(raced[0])
    print(f"{name}, {given.images} images, float32, CPU cores: {cores}; {given.rounds} rounds")
    print(f"  ours: {rate:.3g} images/s, "
          f"{rate * encoders.features(network, SIDE, SIDE) / 1e9:.0f} GFLOP/s")  # fmt: skip
    for label, times in zip(peers, raced[1:], strict=True):
        ratio = turns.ratios(times, raced[0])
        print(f"  {label}: {given.images / np.median(times):.3g} images/s; ours is "
              f"{ratio['median']:.2f} times as fast (quartiles {ratio['low']:.2f} to "
              f"{ratio['high']:.2f})", flush=True)  # fmt: skip


def _inception(torch, images, _):
    """Return torch-fidelity's calls, our network and its call."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({name: torch.tensor(x) for name, x in _random_inception().items()}, file.name)
        features = ["2048", "logits_unbiased"]
        modules = [
            FeatureExtractorInceptionV3("x", features, feature_extractor_weights_path=file.name)
            for _ in range(2)
        ]
        network = load_encoder("inception", file.name)
    modules[1].to(memory_format=torch.channels_last)
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    orders = (pixels.contiguous(), pixels.contiguous(memory_format=torch.channels_last))
    labels = ("torch-fidelity", "torch-fidelity, channels last")
    peers = {
        label: lambda m=module, x=x: m(x)[0]
        for label, module, x in zip(labels, modules, orders, strict=True)
    }
    ours = jnp.asarray(images)
    return peers, network, lambda: jax.block_until_ready(network(ours))["pool"]


def _random_inception():
    """Return random weights by published name, scaled so that activations keep their size."""
    network, rng = inception.of_shapes("shapes", jnp.dtype("float32")), np.random.default_rng(0)
    weights = {}
    for recipe in encoder_names.inception_recipes(network, named(network)).values():
        for name, (shape, *_) in zip(recipe.names, recipe.shapes, strict=True):
            noise = rng.standard_normal(shape, np.float32)
            if len(shape) > 1:
                noise *= np.sqrt(2 / np.prod(shape[1:]))
            elif name.endswith(("running_var", "bn.weight")):
                noise = 1 + 0.1 * np.abs(noise)
            weights[name] = noise
    return weights


def _dinov2(torch, images, given):
    """Return transformers' call, our network and its call, both on resized pixels."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = SIZES[given.size]
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=sizes.width, num_hidden_layers=sizes.depth, image_size=518, patch_size=14,
            num_attention_heads=sizes.heads,
        )
    ).eval()  # fmt: skip
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    network = load_encoder("dinov2", weights)
    pixels = np.random.default_rng(0).standard_normal((len(images), 224, 224, 3), np.float32)
    theirs = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
    ours = jnp.asarray(pixels)
    peers = {f"transformers, {given.size}": lambda: model(theirs).pooler_output}
    return peers, network, lambda: jax.block_until_ready(network.embed(ours))[:, 0]


if __name__ == "__main__":
    main()
