"""Images per second against the published PyTorch DiT: one run, one device, both in turns.

    git clone https://github.com/facebookresearch/DiT
    pip install torch timm
    python tests/benchmarks/peer --checkout DiT --sizes S/2,B/2,XL/2 --out peer

For each size and batch size it times a training step (forward, flow-matching loss, backward, AdamW,
EMA) of the published network and of ours, dense and routed. It also times a sampling step of both
without guidance and with CFG, and of ours with SG (0.5, 0.9), which is compared with the published
CFG. The published network runs at its best: PyTorch's fused attention, fused AdamW, and every mode
of torch.compile in --modes, of which the fastest counts. Ours is the package's own training step
and sampler. Before anything is timed, both must predict the same with the weights that are timed.

Ratios are medians over rounds in which all programs of a group take a turn. For sampling, images/s
count 40 steps per image. Loading, decoding and writing are not included. PyTorch's memory is the
most that it allocated on a GPU, and is not counted on a CPU; ours is what the compiler planned.
peer.json, with every time, and peer.png are written after each batch size. On a GPU, a batch that
doesn't fit is left out. On a CPU, memory must hold both training states at once, each five arrays
the size of the weights, and what both networks start from: 12 times 2.7 GB for XL/2. --programs
sampling leaves training out.

Besides torch, it needs what the package itself imports: jax, flax, optax, orbax-checkpoint, grain,
array_record and ml_collections. Without timm, `timm_parts.py` stands in for its three classes.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import sys

from sg_jax.errors import UserError, nearest

EVALUATIONS = 40  # steps per image
TRAINING = {"cuda": 4, "cpu": 1}  # steps per timed call
SAMPLING = {"cuda": 8, "cpu": 2}
BATCHES = {"cuda": "1,16,64", "cpu": "1,4"}
MODES = {"cuda": "default,max-autotune-no-cudagraphs", "cpu": "eager,default,frozen"}
PROGRAMS = ("training", "sampling")
PRODUCT = {"cuda": (8192, 20), "cpu": (2048, 1)}  # side, products per call


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the command line's values; what depends on the device is still text, or empty."""
    parser = argparse.ArgumentParser(prog="peer", description=__doc__.split("\n")[0])
    parser.add_argument("--checkout", required=True, help="folder of the published DiT")
    parser.add_argument("--sizes", default="S/2,B/2,XL/2")
    parser.add_argument("--batches", default="", help="by default 1,16,64, on a CPU 1,4")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="by default the device's")
    parser.add_argument("--modes", default="", help="of torch.compile, and eager")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="either, or both")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", default="", help="folder for peer.json and peer.png")
    return parser.parse_args(argv)


def names(flag: str, text: str, known) -> list[str]:
    """Return the names in "a,b", or raise for one that isn't known."""
    values = [value.strip() for value in text.split(",")]
    for value in values:
        if value not in known:
            raise UserError(
                f"--{flag}={text}: {value!r} must be one of {', '.join(known)}."
                + nearest(value, known)
            )
    return values


def positive(flag: str, text: str) -> list[int]:
    """Return the ints in "1,4", or raise for one that isn't above 0."""
    values = [value.strip() for value in text.split(",")]
    if not all(value.isdecimal() and int(value) > 0 for value in values):
        raise UserError(f"--{flag}={text} must hold ints above 0, such as 1,16,64.")
    return [int(value) for value in values]


def common_device(torch_has_cuda: bool, jax_backend: str) -> str:
    """Return "cuda" or "cpu", or raise where the frameworks don't see the same device."""
    ours = {"gpu": "cuda", "cuda": "cuda"}.get(jax_backend, jax_backend)
    theirs = "cuda" if torch_has_cuda else "cpu"
    if ours != theirs:
        raise UserError(
            f"torch runs on {theirs!r} and jax on {ours!r}, but both must run on one device, 'cuda'"
            f" or 'cpu': install the other build, or set CUDA_VISIBLE_DEVICES= and "
            f"JAX_PLATFORMS=cpu for both on the CPU."
        )
    return ours


def compare(peer, mine, dtype: str) -> float:
    """Return how far apart both predictions are, relative to the largest value.

    Raises:
      UserError: further than rounding explains, 1e-4 in float32 and 0.1 in bfloat16.
    """
    import jax
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 32, 32, 4), np.float32)
    t, y = np.array([0.25, 0.75], np.float32), np.array([3, 1000])
    torch.set_float32_matmul_precision("highest")
    with jax.default_matmul_precision("highest"):
        theirs, own = peer.predict(x, t, y), mine.predict(x, t, y)
    torch.set_float32_matmul_precision("high")  # timed with TF32 where there is any
    difference = float(np.abs(theirs - own).max() / np.abs(theirs).max())
    if not difference < {"float32": 1e-4, "bfloat16": 1e-1}[dtype]:
        raise UserError(
            f"The published network and ours differ by {difference:.2g} of the largest output with "
            f"the same weights: they don't compute the same, so their times can't be compared."
        )
    return difference


def measure(
    peer, mine, size: str, batch: int, given: argparse.Namespace, peak: float, device: str
) -> list[dict]:
    """Race the programs of a batch size and print their tables; leave out what doesn't fit."""
    import report
    import turns

    def training(steps):
        made = mine.training(batch, steps)
        return [peer.training(batch, steps, made[0].flops), *made]

    def sampling(steps):
        made = mine.sampling(batch, steps)
        return [*peer.sampling(batch, steps, [p.flops for p in made[:2]]), *made]

    rows = []
    for group, steps, evaluations in (
        (training, TRAINING[device], 1),
        (sampling, SAMPLING[device], EVALUATIONS),
    ):
        if group.__name__ not in given.programs:
            continue
        try:
            raced = turns.rows(group(steps), given.rounds, batch, evaluations, peak)
        except RuntimeError as error:  # as torch's OutOfMemoryError and jax's error are
            if "memory" not in str(error).lower() and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            what = f"{size}, batch {batch}, {group.__name__}"
            print(f"\n{what}: does not fit: {str(error).splitlines()[0]}", flush=True)
            continue
        finally:
            gc.collect()
        print(report.table(size, raced), flush=True)
        rows += [{"size": size, **row} for row in raced]
    return rows


def products(device: str, dtype: str) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in both frameworks."""
    import ours
    import published
    import turns

    side, count = PRODUCT[device]
    calls = {"torch": published.product, "jax": ours.product}
    calls = {name: make(side, dtype, count) for name, make in calls.items()}
    for call in calls.values():
        call()
    times = zip(calls, turns.race(list(calls.values()), 10), strict=True)
    rates = {name: 2 * side**3 * count / turns.quartiles(ts)[1] for name, ts in times}
    text = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items())
    print(f"Product of two {side}x{side} matrices, {dtype}: {text}", flush=True)
    return rates


def main(argv: list[str]) -> None:
    """Measure, print and write."""
    given = parse(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch is missing: pip install torch timm") from None
    import jax
    import ours
    import published
    import report

    models, timm = published.load(given.checkout)
    sizes = names("sizes", given.sizes, ours.SIZES)
    device = common_device(torch.cuda.is_available(), jax.default_backend())
    batches = positive("batches", given.batches or BATCHES[device])
    given.programs = names("programs", given.programs, PROGRAMS)
    modes = names("modes", given.modes or MODES[device], published.MODES)
    dtype = given.dtype or {"cuda": "bfloat16", "cpu": "float32"}[device]
    if given.rounds < 3:
        raise UserError(f"--rounds={given.rounds} must be at least 3.")
    cores = len(os.sched_getaffinity(0))  # those that this process may use
    kind = torch.cuda.get_device_name() if device == "cuda" else f"CPU, cores: {cores}"
    about = dict(
        device=kind, dtype=dtype, rounds=given.rounds, modes=modes, torch=torch.__version__,
        jax=jax.__version__, classes=timm, python=platform.python_version(), differences={},
    )  # fmt: skip
    print(f"{kind}, {dtype}; torch {torch.__version__}, jax {jax.__version__}, {timm}", flush=True)
    torch.set_float32_matmul_precision("high")  # TF32 where there is any
    about["product_flops"] = rates = products(device, dtype)

    rows = []
    for size in sizes:
        peer = published.Peer(models, size, dtype, modes)
        mine = ours.Ours(size, dtype, peer.weights())
        about["differences"][size] = far = compare(peer, mine, dtype)
        print(f"\n{size}: both predict the same, to {far:.1e} of the largest value.", flush=True)
        for batch in batches:
            rows += measure(peer, mine, size, batch, given, max(rates.values()), device)
            if given.out and rows:
                folder = pathlib.Path(given.out)
                folder.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"about": about, "rows": rows}, indent=1)
                (folder / "peer.json").write_text(text)
                report.plot(rows, f"{kind}, {dtype}", folder / "peer.png")
        del peer, mine
    print(report.verdict(report.figures(rows, device)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
