"""Where a network looks: Grad-CAM (Selvaraju et al., ICCV 2017) on its last map of features."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from torch import Tensor

    from penstock.vision.preprocess import Preprocess

__all__ = ["NotExplainableError", "explained", "grad_cam", "overlay", "png"]

Pixels = NDArray[np.uint8]
Heat = NDArray[np.float32]

# From cold to hot, as in Matplotlib's inferno, at 0, ¼, ½, ¾ and 1.
COLOURS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64
)
OPACITY = 0.65  # where it is hottest


class NotExplainableError(PenstockError):
    """The network has no map of features that keeps the picture's places."""


def grad_cam(network: Any, prepared: Tensor, classes: Tensor | None = None) -> Heat:
    """How much each place of the last map of features speaks for a class.

    The map's channels are added up with the mean gradient of the class's logit as their weights; what speaks
    against the class is left out.

    Args:
        network: A timm model in evaluation mode, with forward_features and forward_head.
        prepared: Its input, shape (n, 3, side, side).
        classes: Codes of the classes, shape (n,); None: what the network chooses.

    Returns:
        Shape (n, height, width) of the map, each in [0, 1] with 1 its hottest place; all 0 where nothing
        speaks for the class.

    Raises:
        NotExplainableError: The network's last features are tokens, or a vector.
    """
    import torch

    if network.training:
        raise ValueError("the network is in training mode: statistics of the batch would change the answer")
    with torch.enable_grad():
        features = network.forward_features(prepared).detach().requires_grad_()
        if features.ndim != 4:
            raise NotExplainableError(
                f"{type(network).__name__} has no map of features: its last ones have shape {tuple(features.shape)}",
                hint="Grad-CAM is for convolutional networks (and those that keep a grid, as Swin does)",
            )
        logits = network.forward_head(features)
        chosen = logits.argmax(dim=1) if classes is None else classes
        # Pictures do not mix in evaluation mode: the gradient of the sum is that of each.
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features)
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        features, gradient = features.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * features).sum(dim=1).detach().clamp(min=0).numpy()
    hottest = heat.max(axis=(1, 2), keepdims=True)
    scaled: Heat = (heat / np.where(hottest > 0, hottest, 1)).astype(np.float32)
    return scaled


def explained(
    network: Any, preprocess: Preprocess, pictures: Iterable[Pixels], codes: Iterable[int]
) -> Iterator[tuple[Pixels, Pixels]]:
    """Of each picture, what the network sees of it, and the same with the heat of a class laid over it.

    Args:
        network: A timm model in evaluation mode.
        preprocess: What prepares its input.
        pictures: RGB, each of shape (height, width, 3).
        codes: The class of each that is to be explained.

    Raises:
        NotExplainableError: As ``grad_cam``.
    """
    import torch

    for pixels, code in zip(pictures, codes, strict=True):
        picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        seen = preprocess.scale(preprocess.crop(picture))
        heat = grad_cam(network, preprocess.normalise(seen), torch.tensor([code]))
        shown = seen[0].round().byte().permute(1, 2, 0).numpy()
        yield shown, overlay(shown, heat[0])


def overlay(pixels: Pixels, heat: Heat) -> Pixels:
    """A picture with its heat laid over it: clear where it is cold.

    Args:
        pixels: RGB, shape (height, width, 3): what the network saw.
        heat: Values in [0, 1], of any height and width.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    grown = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    warmth = np.clip(np.asarray(grown, dtype=np.float64), 0, 1)
    at = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(warmth, at, COLOURS[:, channel]) for channel in range(3)], axis=2)
    opacity = OPACITY * warmth[..., None]
    mixed = pixels * (1 - opacity) + colour * opacity
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    """The bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
