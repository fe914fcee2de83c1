"""The checkpoints that training writes, and the one that it continues from."""

import concurrent.futures
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint import utils as orbax_utils
from orbax.checkpoint import v1 as ocp

from sg_jax.errors import UserError, one_line
from sg_jax.parallel import processes
from sg_jax.programs.training import TrainState
from sg_jax.runs import failures, files
from sg_jax.runs.progress import log
from sg_jax.weights import best, checkpoints, integrity
from sg_jax.weights.best import Best


class Saver:
    """Save in the background every `every` steps, and keep the latest `keep`.

    With `keep_period` above 0 it also keeps every multiple of it. The checkpoint that `save` gets
    as the best stays until a better one is whole. Use it as a context manager, and call `restore`
    before the first `save`.

    Attributes:
      best: the best checkpoint so far, if there is one.
    """

    def __init__(self, workdir: str, every: int, keep: int, keep_period: int = 0):
        self.folder = checkpoints.checkpoint_dir(workdir)
        self._workdir, self._every = workdir, every
        self._keep, self._keep_period = keep, keep_period
        if keep_period % every:
            log(
                f"config.checkpoint.keep_period={keep_period} is not a multiple of "
                f"config.checkpoint.every={every}, so a checkpoint is kept only every "
                f"{math.lcm(keep_period, every)} steps."
            )
        self.best: Best | None = None
        self._whole: Best | None = None  # the one of best.json, until a better one is saved
        self._replaced: set[int] = set()  # checkpoints that were the best
        self._opened: ocp.training.Checkpointer | None = None
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        logging.getLogger("absl").addFilter(_of_use)

    def __enter__(self) -> "Saver":
        # Orbax would ask jax for stops too, by the numbers of steps. jax counts with one numbering
        # only and says so once, and `processes.stop_signals` asks by another.
        self._asks, orbax_utils.reached_preemption = orbax_utils.reached_preemption, _never
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.wait()
        except UserError:
            if error is None:  # otherwise the first error is the one to report
                raise
        finally:
            self._sealer.shutdown()
            if self._opened is not None:
                with contextlib.suppress(Exception):  # it raises the error of `wait` once more
                    self._opened.close()
                if error is None and processes.is_writer():
                    self._remove_replaced()
            orbax_utils.reached_preemption = self._asks

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, int]] | None:
        """Return the latest state that is whole, sharded as `abstract` asks, and its progress.

        Damaged checkpoints after it are renamed to STEP.damaged, and the log says so.

        Returns:
          The state and the numbers that were saved with it; None for a new run.

        Raises:
          UserError: no checkpoint is whole, or the latest one is of another network.
        """
        damaged: list[integrity.Damaged] = []
        for step in reversed(checkpoints.steps_of(self._workdir)):
            try:
                found = self._load(step, abstract)
            except integrity.Damaged as error:
                damaged.append(error)
                continue
            state, numbers = found
            progress, known = best.split(numbers)
            there = known is not None and (self.folder / str(known.step)).exists()
            self.best = self._whole = known if there else None
            if processes.is_writer():
                integrity.seal(self.folder / str(step))
                if best.read(self._workdir) != self.best:
                    best.write(self._workdir, self.best)
                self._finish_rotation(step)
            self._set_aside(step, damaged)
            return state, progress
        if damaged:
            raise UserError(
                f"{damaged[0]} No checkpoint in {self.folder} is whole, so the run cannot continue."
                " Nothing was deleted: put a copy back, or give a new --workdir to start again."
            )
        return None

    def _load(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, float]]:
        trees = parts_of(abstract)
        wanted = {part: checkpoints.named(tree) for part, tree in trees.items()}
        mesh = cast(Mesh, cast(NamedSharding, abstract.step.sharding).mesh)
        loaded = checkpoints.read(self.folder / str(step), {**wanted, "progress": None}, mesh)
        parts = {part: checkpoints.unnamed(loaded[part], tree) for part, tree in trees.items()}
        emas = {decay: parts.pop(f"ema_{decay}") for decay in abstract.emas}
        progress = {name: np.asarray(value).item() for name, value in loaded["progress"].items()}
        stored = jax.device_put(np.int32(progress["step"]), abstract.step.sharding)
        return TrainState(step=stored, emas=emas, **parts), progress

    def _set_aside(self, latest: int, damaged: list[integrity.Damaged]) -> None:
        """Rename the damaged checkpoints after `latest`, so that their steps can be saved again."""
        for error in damaged:
            log(str(error))
        processes.barrier("checkpoints read")
        checkpoints.set_aside(self._workdir, latest, "damaged")

    def _finish_rotation(self, latest: int) -> None:
        """Remove the checkpoint that a killed run was removing, or was about to remove.

        There may be several whole ones, because the run kept more before. They stay until a save.
        A run that keeps its best one may have one more, which was the best before.
        """
        if files.is_remote(self.folder):
            return
        steps = [s for s in checkpoints.steps_of(self._workdir) if s <= latest][: -self._keep]
        steps = [s for s in steps if not self._stays(s)]
        most = 1 + (self.best is not None)
        for step in steps:
            if len(steps) <= most or not integrity.is_complete(self.folder / str(step)):
                (self.folder / str(step)).rmtree(missing_ok=True)
                log(f"Removed checkpoint {step}, which newer ones have replaced.")

    def _stays(self, step: int) -> bool:
        """Return whether a checkpoint is kept although it is not among the latest."""
        period = self._keep_period
        return step in self.best_steps or bool(period and step % period == 0)

    @property
    def best_steps(self) -> set[int]:
        """The best checkpoint and, while a better one is being saved, the one before it."""
        return {found.step for found in (self.best, self._whole) if found is not None}

    def _remove_replaced(self) -> None:
        """Remove the previous best checkpoint at the end, when no further save does it."""
        steps = checkpoints.steps_of(self._workdir)[: -self._keep]
        for step in self._replaced.intersection(steps):
            if not self._stays(step):
                (self.folder / str(step)).rmtree(missing_ok=True)

    @property
    def _checkpointer(self) -> ocp.training.Checkpointer:
        """Orbax's checkpointer, opened when needed, because it remembers the folder's steps."""
        if self._opened is None:
            policies = ocp.training.save_decision_policies
            preserve = ocp.training.preservation_policies
            kept: list[Any] = [preserve.LatestN(self._keep), _KeepBest(self)]
            if self._keep_period:
                kept.append(preserve.EveryNSteps(self._keep_period))
            self._opened = ocp.training.Checkpointer(
                self.folder,
                save_decision_policy=policies.FixedIntervalPolicy(self._every),
                preservation_policy=preserve.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
            )
        return self._opened

    def should_save(self, step: int) -> bool:
        """Return whether a checkpoint is due."""
        return self._checkpointer.should_save(step)

    def save(
        self,
        state: TrainState,
        step: int,
        progress: Mapping[str, int],
        as_best: Best | None = None,
    ) -> None:
        """Save in the background, after the previous save; saving a step again does nothing.

        Args:
          state: what to save; its arrays may be donated as soon as this returns.
          step: its step.
          progress: further numbers to return with it.
          as_best: the record of this step as the best so far, if it is.

        Raises:
          UserError: the previous save failed, or the folder cannot be written.
        """
        self.wait()
        if processes.is_writer():
            files.check_writable(self.folder)  # Orbax would wait for minutes
        latest = self._checkpointer.latest
        if latest is not None and latest.step == step:
            return
        parts: dict[str, Any] = {
            part: checkpoints.named(tree) for part, tree in parts_of(state).items()
        }
        if as_best is not None:
            self._replaced |= {self.best.step} if self.best else set()
            self.best = as_best
        numbers = self.best.numbers if self.best else {}
        parts["progress"] = {**progress, "step": step, **numbers}
        response = self._checkpointer.save_checkpointables_async(step, parts, force=True)
        self._pending = step, self._sealer.submit(self._finish, step, response, as_best)

    def _finish(self, step: int, response, as_best: Best | None) -> None:
        response.result()  # also releases its thread and descriptors
        if processes.is_writer():
            integrity.seal(self.folder / str(step))
            if as_best is not None:
                best.write(self._workdir, as_best)
        self._whole = as_best or self._whole

    def wait(self) -> None:
        """Wait for the save in the background.

        Raises:
          UserError: it failed.
        """
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        try:
            pending.result()
        except Exception as error:  # of a full disk, a folder that is gone, another process, ...
            failed = f"The checkpoint of step {step} could not be saved."
            if text := failures.explain(error, str(self.folder)):
                raise failures.Failure(f"{failed} {text}") from error
            raise UserError(
                f"{failed} {self.folder}: {one_line(error)}. Once that is mended, the same command "
                "continues from the checkpoint before it."
            ) from error


class _KeepBest:
    """Orbax's policy for the best checkpoint; asked when a save begins, so the old one stays."""

    def __init__(self, saver: Saver):
        self._saver = saver

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> Sequence[bool]:
        """Return which of some checkpoints are to be kept."""
        return [each.step in self._saver.best_steps for each in checkpoints]


def _never(step: int) -> bool:
    return False


def _of_use(record: logging.LogRecord) -> bool:
    """Return False for tracebacks that Orbax's threads log, since `Saver.wait` raises the error."""
    return not (record.exc_info and "orbax" in record.pathname)


def parts_of(state: TrainState) -> dict[str, Any]:
    """Return the parts of a state that are stored, and can be loaded, on their own, by name."""
    parts = {"model": state.model, "ema": state.ema, "opt_state": state.opt_state}
    return parts | {f"ema_{decay}": tree for decay, tree in state.emas.items()}
