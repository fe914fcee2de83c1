"""The published PyTorch DiT, at its best: what a checkout's models.py defines, compiled and timed.

The network and the optimizer are as published (AdamW, EMA 0.9999). The slow parts of the training
loop are not: the moving average is one fused call instead of one per parameter, AdamW is fused, the
loss is compiled together with the network, and nothing is logged. The loss and the time convention
are ours, flow matching.
"""

import copy
import gc
import importlib.util
import itertools
import pathlib
import sys
import types
from collections.abc import Callable, Sequence

import numpy as np
import timm_parts
import torch
import turns

from sg_jax.errors import UserError

URL = "https://github.com/facebookresearch/DiT"
GRAPHS = ("reduce-overhead", "max-autotune")  # modes that reuse the memory of what they return
FROZEN = {"freezing": True, "max_autotune": True}  # weights laid out for the CPU's products
MODES = ("eager", "default", "max-autotune-no-cudagraphs", *GRAPHS, "frozen")


def load(checkout: str) -> tuple[types.ModuleType, str]:
    """Return the module models.py of a checkout, and whose timm classes it uses.

    Raises:
      UserError: no such folder, or no models.py of DiT in it.
    """
    file = pathlib.Path(checkout) / "models.py"
    if not file.is_file():
        what = "has no models.py" if file.parent.is_dir() else "is not a folder"
        raise UserError(
            f"--checkout={checkout} {what}; it must be a checkout of the published DiT: "
            f"git clone {URL}"
        )
    timm = timm_parts.stand_in()
    spec = importlib.util.spec_from_file_location("published_dit", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks it up by its name
    spec.loader.exec_module(module)
    if not hasattr(module, "DiT_models"):
        raise UserError(
            f"--checkout={checkout}: its models.py has no DiT_models; it must be that of the "
            f"published DiT: git clone {URL}"
        )
    return module, timm


class Peer:
    """The published network of one size, with weights that give every layer an effect.

    Args:
      models: from `load`.
      size: such as "XL/2".
      dtype: "float32" or "bfloat16" (autocast in training, weights too in sampling).
      modes: of `MODES`; the fastest counts. "frozen" is for sampling alone.
    """

    def __init__(self, models: types.ModuleType, size: str, dtype: str, modes: Sequence[str]):
        torch.manual_seed(0)
        torch._dynamo.config.recompile_limit = 64  # beyond this, it would run uncompiled
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype, self.modes = getattr(torch, dtype), modes
        self.model = models.DiT_models[f"DiT-{size}"](learn_sigma=False).to(self.device)
        for p in self.model.parameters():  # untrained, blocks do nothing and all outputs are zero
            if p.requires_grad and not p.any():
                torch.nn.init.normal_(p, std=0.02)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights under their published names."""
        return {name: w.cpu().numpy() for name, w in self.model.state_dict().items()}

    def autocast(self):
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def inference(self) -> torch.nn.Module:
        """Return a copy of the network to sample with."""
        return copy.deepcopy(self.model).eval().requires_grad_(False).to(self.dtype)

    def predict(self, x: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the prediction [B, H, W, C] for inputs in our layout."""
        x = torch.from_numpy(x).movedim(-1, 1).to(self.device)
        t, y = (torch.from_numpy(a).to(self.device) for a in (t, y))
        with torch.no_grad(), self.autocast():
            out = self.inference()(x, t, y)
        return out.movedim(1, -1).float().cpu().numpy()

    def training(self, batch: int, steps: int, flops: float) -> turns.Program:
        """Return the training step: forward, flow-matching loss, backward, AdamW, EMA."""
        before = self._start()
        model = copy.deepcopy(self.model).train()
        weights = [p for p in model.parameters() if p.requires_grad]
        ema = [p.detach().clone() for p in weights]
        optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0, fused=True)
        x = torch.randn(batch, 4, 32, 32, device=self.device)
        y = torch.randint(0, 1000, (batch,), device=self.device)

        def loss_of(x, y):
            t = torch.sigmoid(torch.randn(len(x), device=x.device))
            z = torch.randn_like(x)
            s = t[:, None, None, None]
            with self.autocast():
                v = model((1 - s) * z + s * x, t, y)
            return torch.nn.functional.mse_loss(v.float(), x - z)

        def make(mode):
            loss = _compile(loss_of, mode)

            def call():
                for _ in range(steps):
                    loss(x, y).backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    torch._foreach_lerp_(ema, weights, 1 - 0.9999)
                self._wait()

            return call

        modes = [mode for mode in self.modes if mode != "frozen"] or ["default"]
        return self._best("DiT, dense training", make, modes, steps, flops, before)

    def sampling(self, batch: int, steps: int, flops: Sequence[float]) -> list[turns.Program]:
        """Return Euler steps without guidance and with CFG (one batch of 2B, as published).

        CFG acts on all channels. The published default of three channels costs the same.
        """
        times = torch.linspace(0, 1, steps + 1, device=self.device)
        y = torch.randint(0, 1000, (batch,), device=self.device)
        programs = []
        for name, guided, cost in zip(("unguided", "CFG"), (False, True), flops, strict=True):
            before = self._start(reset=not guided)
            make = self._sampler(self.inference(), batch, y, times, guided)
            programs.append(self._best(f"DiT, {name}", make, self.modes, steps, cost, before))
        return programs

    def _sampler(self, model, batch, y, times, guided):
        def step(x, t, after, y):
            with self.autocast():
                if guided:
                    null = torch.full_like(y, 1000)
                    out = model(torch.cat([x, x]), t.expand(2 * len(x)), torch.cat([y, null]))
                    strong, weak = out.float().chunk(2)
                    v = 1.5 * strong - 0.5 * weak
                else:
                    v = model(x, t.expand(len(x)), y).float()
            return x + (after - t) * v

        def make(mode):
            advance = _compile(step, mode)

            def call():
                with torch.no_grad():
                    x = torch.randn(batch, 4, 32, 32, device=self.device)
                    for t, after in itertools.pairwise(times):
                        x = advance(x, t, after, y)
                        x = x.clone() if mode in GRAPHS else x
                self._wait()

            return call

        return make

    def _best(
        self,
        name: str,
        make: Callable,
        modes: Sequence[str],
        steps: int,
        flops: float,
        before: int,
    ) -> turns.Program:
        """Compile in every mode and keep the fastest."""
        calls, firsts = {}, {}
        for mode in modes:
            calls[mode] = make(mode)
            firsts[mode] = turns.seconds(calls[mode])
            turns.seconds(calls[mode])  # a graph is recorded in the second call
        mode = turns.fastest(calls, 3)
        memory = None
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            calls[mode]()
            memory = torch.cuda.max_memory_allocated() - before
        return turns.Program(name, calls[mode], steps, flops, firsts[mode], memory, mode)

    def _start(self, reset: bool = True) -> int:
        """Forget what was compiled for other shapes; return the bytes in use."""
        gc.collect()
        if reset:
            torch._dynamo.reset()
        if self.device != "cuda":
            return 0
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _compile(function: Callable, mode: str) -> Callable:
    if mode == "eager":
        return function
    how = {"options": FROZEN} if mode == "frozen" else {"mode": mode}
    return torch.compile(function, dynamic=False, fullgraph=True, **how)


def product(size: int, dtype: str, calls: int) -> Callable[[], None]:
    """Return a function that multiplies two random matrices [size, size] `calls` times."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))

    def call():
        for _ in range(calls):
            c = a @ b
        return c[0, 0].item()

    return call
