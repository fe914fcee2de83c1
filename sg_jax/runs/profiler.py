"""A trace of a few training steps, for XProf or TensorBoard."""

import pathlib
import tempfile
from typing import Any

import jax

from sg_jax.runs import files
from sg_jax.runs.progress import log


class Profiler:
    """Trace steps `start` to `start + steps - 1` into `workdir/profile`; start 0 is off.

    Call `before` and `after` around a step. Each process writes its own file.

    Args:
      start: first step to trace, counted from 1.
      steps: how many.
      workdir: folder of the run.
      resumed: the step that the run continues from, 0 for a new one.
      again: whether this command has trained before, and went back to that step.
    """

    def __init__(self, start: int, steps: int, workdir: str, resumed: int, again: bool = False):
        self.first, self.last = start, start + steps - 1
        self.folder = files.path(workdir) / "profile"
        self._annotation: jax.profiler.StepTraceAnnotation | None = None
        self._local: tempfile.TemporaryDirectory | None = None
        self._open = False
        if 0 < start <= resumed:
            # Not an error, because the same command continues a run, also one that was killed
            # before its trace was written.
            traced = again or self.folder.exists()
            remedy = "" if traced else f" To trace it, set config.profile.start={resumed + 1}."
            log(f"Step {start} is not traced, because the run goes on from step {resumed}.{remedy}")
            self.first = self.last = 0

    def before(self, step: int) -> None:
        """Begin a step, and also the trace if it is the first traced step."""
        if not 0 < self.first <= step <= self.last:
            return
        if step == self.first:
            # jax writes only to a disk, and all processes of a host to the same file.
            if files.is_remote(self.folder) or jax.process_count() > 1:
                self._local = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._local.name if self._local else self.folder)
            self._open = True
        self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._annotation.__enter__()

    def after(self, step: int, state: Any) -> bool:
        """End a step whose result is `state`; return whether tracing has changed its time."""
        if step + 1 == self.first:
            jax.block_until_ready(state)  # so that the trace begins with the first step
        if self._annotation is None:
            return False
        self._annotation.__exit__(None, None, None)
        self._annotation = None
        if step == self.last:
            jax.block_until_ready(state)  # so that the trace contains the steps
            self.close(step)
        return True

    def stop(self) -> None:
        """End an open trace, as after an error; what is to be copied when it is closed is lost."""
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
        if self._open:
            jax.profiler.stop_trace()
            self._open = False

    def close(self, step: int) -> None:
        """Write the trace, if there is one, up to step `step`."""
        if self._open:
            jax.profiler.stop_trace()
            self._open = False
            if self._local is not None:
                with self._local as root:
                    for path in pathlib.Path(root).rglob("*"):
                        if path.is_file():
                            name = path.relative_to(root)
                            if jax.process_count() > 1:
                                name = name.with_name(f"process{jax.process_index()}_{name.name}")
                            files.write_atomically(self.folder / name, path.read_bytes())
            log(
                f"Trace of steps {self.first} to {step} in {self.folder}. To look at it: "
                f"`pip install xprof tensorboard` and `tensorboard --logdir {self.folder}`."
            )
            self.first = self.last = 0
