"""Grad-CAM: the map of a network that looks at one place lights that place."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from penstock.vision import explain
from penstock.vision.explain import NotExplainableError, grad_cam

SIDE, GRID = 32, 8
CORNERS = {"top_left": (0, 0), "top_right": (0, 1), "bottom_left": (1, 0), "bottom_right": (1, 1)}


class OneCorner(nn.Module):
    """Two channels of brightness, of a quarter of the picture alone: one for each of two classes."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        mask = torch.zeros(GRID, GRID)
        half = GRID // 2
        mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
        self.mask = mask

    def forward_features(self, x: Tensor) -> Tensor:
        bright = nn.functional.adaptive_avg_pool2d(x.mean(dim=1, keepdim=True), GRID)
        return torch.cat([bright, 1 - bright], dim=1) * self.mask

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize("corner", CORNERS)
def test_lights_the_corner_that_the_network_looks_at(corner: str) -> None:
    row, column = CORNERS[corner]
    pictures = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    heat = grad_cam(OneCorner(row, column).eval(), pictures)
    assert heat.shape == (5, GRID, GRID)
    inside = heat.reshape(5, 2, GRID // 2, 2, GRID // 2)[:, row, :, column, :]
    assert (inside > 0).all()
    np.testing.assert_allclose(inside.sum(axis=(1, 2)), heat.sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(heat.max(axis=(1, 2)), np.ones(5))


def test_lights_what_speaks_for_the_class_asked_for() -> None:
    """A bright spot speaks for the first class there, and for the second everywhere else."""
    picture = torch.zeros(1, 3, SIDE, SIDE)
    picture[:, :, :4, 12:16] = 1
    network = OneCorner(0, 0).eval()
    network.mask = torch.ones(GRID, GRID)
    bright, dark = (grad_cam(network, picture, torch.tensor([k]))[0] for k in (0, 1))
    assert np.argwhere(bright > 0).tolist() == [[0, 3]]
    assert dark[0, 3] == 0
    assert (dark == 1).sum() == GRID * GRID - 1


def test_pictures_do_not_mix() -> None:
    network = timm.create_model("resnet10t", num_classes=4).eval()
    pictures = torch.rand(3, 3, SIDE * 2, SIDE * 2, generator=torch.Generator().manual_seed(2))
    together = grad_cam(network, pictures)
    alone = np.concatenate([grad_cam(network, picture[None]) for picture in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_map_with_channels_last_is_turned() -> None:
    class Turned(OneCorner):
        output_fmt = "NHWC"

        def forward_features(self, x: Tensor) -> Tensor:
            return super().forward_features(x).permute(0, 2, 3, 1)

        def forward_head(self, x: Tensor) -> Tensor:
            return x.mean(dim=(1, 2))

    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(
        grad_cam(Turned(1, 0).eval(), pictures), grad_cam(OneCorner(1, 0).eval(), pictures)
    )


def test_nothing_that_speaks_for_it_is_no_heat() -> None:
    heat = grad_cam(OneCorner(0, 0).eval(), torch.zeros(1, 3, SIDE, SIDE), torch.tensor([0]))
    assert not heat.any()


def test_tokens_are_refused() -> None:
    class Tokens(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    with pytest.raises(NotExplainableError, match=r"Tokens has no map of features.*\(1, 1024, 3\)"):
        grad_cam(Tokens().eval(), torch.zeros(1, 3, SIDE, SIDE))


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        grad_cam(OneCorner(0, 0), torch.zeros(1, 3, SIDE, SIDE))


def test_overlay_is_clear_where_it_is_cold() -> None:
    grey: Any = np.full((64, 48, 3), 120, dtype=np.uint8)
    heat = np.zeros((GRID, GRID), dtype=np.float32)
    np.testing.assert_array_equal(explain.overlay(grey, heat), grey)
    heat[0, 0] = 1
    laid = explain.overlay(grey, heat)
    np.testing.assert_array_equal(laid[32:], grey[32:])
    assert laid[0, 0, 0] > 180
    assert laid[0, 0, 0] > laid[0, 0, 2]


def test_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(explain.png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
