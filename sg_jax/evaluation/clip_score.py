"""The CLIP score of images and texts: 100 times the cosine of their embeddings, at least 0.

Hessel et al., "CLIPScore" (arXiv 2104.08718), without their factor of 2.5, as it is usually
reported. The networks come from the package transformers, which computes with torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sg_jax.errors import UserError, one_line


class Clip:
    """A CLIP network.

    Args:
      name: a hub id such as "openai/clip-vit-base-patch32", or a folder.

    Raises:
      UserError: transformers or torch is missing, or there is no such network.
    """

    def __init__(self, name: str):
        try:
            import torch
            from transformers import AutoProcessor, CLIPModel
        except ImportError as cause:
            raise UserError(
                f"config.compose.clip={name!r} needs the package {cause.name}: "
                "`pip install 'sg_jax[clip]'`, or leave it empty."
            ) from None
        try:
            # In float32, whatever the version of transformers makes of half-precision weights.
            self._model = CLIPModel.from_pretrained(name).eval().float()
            self._processor = AutoProcessor.from_pretrained(name)
        except Exception as cause:  # loading someone else's network may raise anything
            raise UserError(
                f"config.compose.clip={name!r} cannot be loaded ({one_line(cause)}): give the hub "
                "id or the folder of a CLIP network in transformers format."
            ) from None
        self._torch: Any = torch

    def scores(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Return the score of each image uint8 [B, H, W, C] with its text, float64 [B]."""
        colours = np.broadcast_to(images, (*images.shape[:3], 3))
        given = self._processor(
            text=list(texts), images=list(colours), return_tensors="pt", padding=True,
            truncation=True,
        )  # fmt: skip
        with self._torch.no_grad():
            found = self._model(**given)
        pair = [found.image_embeds.double().numpy(), found.text_embeds.double().numpy()]
        one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in pair)
        return 100.0 * np.maximum((one * other).sum(axis=1), 0.0)
