"""From the pixels of a picture to what the network sees. The exported graph does the same, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.config import Backbone

__all__ = ["Preprocess"]


class Preprocess(nn.Module):
    """The middle square (or all) of each picture, scaled to the network's side and normalised.

    Scaling is that of Pillow: antialiased, half-pixel centres, bicubic with a = −0.5.

    Args:
        backbone: Side, fit, share of the crop and interpolation.
        mean: Of each channel, for values in [0, 1], shape (3,).
        std: Of each channel, shape (3,).
    """

    def __init__(self, backbone: Backbone, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Args: pixels: uint8, shape (n, 3, height, width). Returns: float, shape (n, 3, side, side)."""
        return self.normalise(self.scale(self.crop(pixels)))

    def crop(self, pixels: Tensor) -> Tensor:
        """The middle square, of ``crop_share`` of the shorter side; all of it where the fit is squash."""
        height, width = pixels.shape[-2:]
        share = self.backbone.crop_share
        if self.backbone.fit == "crop":
            rows = columns = max(1, int(min(height, width) * share))
        else:
            rows, columns = max(1, int(height * share)), max(1, int(width * share))
        top, left = (height - rows) // 2, (width - columns) // 2
        return pixels[..., top : top + rows, left : left + columns]

    def scale(self, pixels: Tensor) -> Tensor:
        """To the network's side, as floats in [0, 255]."""
        side = self.backbone.side
        scaled = functional.interpolate(
            pixels.float(),
            size=(side, side),
            mode=self.backbone.interpolation,
            align_corners=False,
            antialias=True,
        )
        return scaled.clamp(0.0, 255.0)

    def normalise(self, scaled: Tensor) -> Tensor:
        """From [0, 255] to what the backbone was trained on."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (scaled / 255.0 - mean) / std
