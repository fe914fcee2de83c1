"""Write images with their prompts as other scorers read them.

geneval   FOLDER/00000/metadata.jsonl          what the prompt asks for
          FOLDER/00000/samples/0000.png        its images
hpsv3     FOLDER/00000_0000.png and .txt       each image, and its prompt next to it
          FOLDER/prompts.json                  [{"image": ..., "prompt": ...}, ...]
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from sg_jax.data.images import png
from sg_jax.evaluation.prompts import Prompt
from sg_jax.runs import files

THREADS = 8
PICTURES = {"geneval": "*/samples/*.png", "hpsv3": "*.png"}  # where a layout has its images


class Kept:
    """All images of a drawing, in one of the layouts.

    Args:
      folder: where to write.
      layout: "geneval" or "hpsv3".
      prompts: the prompts of the drawing.
      samples: number of images of each prompt.
    """

    def __init__(self, folder: epath.Path, layout: str, prompts: Sequence[Prompt], samples: int):
        self._folder, self._layout = folder, layout
        self._prompts, self._samples = prompts, samples
        files.check_writable(folder)

    def add(self, images: np.ndarray, first: int) -> None:
        """Write images uint8 [b, H, W, C], numbered from `first`."""
        with ThreadPoolExecutor(THREADS, "pictures") as pool:
            list(pool.map(self._write, images, range(first, first + len(images))))

    def finish(self) -> epath.Path:
        """Write what belongs to the folder as a whole, and return its path."""
        if self._layout == "hpsv3":
            names = [
                (self._name(p, s), prompt.text)
                for p, prompt in enumerate(self._prompts)
                for s in range(self._samples)
            ]
            rows = [{"image": f"{name}.png", "prompt": text} for name, text in names]
            text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
            files.write_atomically(self._folder / "prompts.json", text.encode())
        return self._folder

    def _name(self, prompt: int, sample: int) -> str:
        return f"{prompt:05d}_{sample:04d}"

    def _write(self, image: np.ndarray, number: int) -> None:
        which, sample = divmod(number, self._samples)
        prompt, encoded = self._prompts[which], png(image).getvalue()
        if self._layout == "hpsv3":
            stem = self._folder / self._name(which, sample)
            files.write_atomically(stem.with_suffix(".txt"), prompt.text.encode())
            files.write_atomically(stem.with_suffix(".png"), encoded)
            return
        place = self._folder / f"{which:05d}"
        if sample == 0:
            files.write_atomically(place / "metadata.jsonl", f"{prompt.metadata}\n".encode())
        files.write_atomically(place / "samples" / f"{sample:04d}.png", encoded)
