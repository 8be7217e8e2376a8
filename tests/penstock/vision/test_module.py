"""Rates, freezing, mixing and the moving average."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penstock.config import Finetuning
from penstock.vision import backbone as backbones
from penstock.vision.module import Classifier, MovingAverage, rate


@given(st.sampled_from(["cosine", "one_cycle", "constant"]), st.floats(0, 0.5), st.integers(5, 500))
def test_the_rate_rises_to_one_and_then_falls(schedule, warmup, steps):
    settings = Finetuning(schedule=schedule, warmup=warmup)
    rates = [rate(settings, step, steps) for step in range(steps)]
    assert all(0 <= one <= 1 + 1e-9 for one in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if schedule != "constant":
        assert rates[-1] < 0.5


def module(network: nn.Module, **settings) -> Classifier:
    chosen = Finetuning.model_validate(settings)
    return Classifier(
        network, nn.Identity(), chosen, groups=[], batches=lambda _: 1, classes=3, weights=None, seed=1
    )


def test_what_is_frozen_keeps_its_statistics_and_what_learns_does_not():
    network = timm.create_model("test_efficientnet", num_classes=3)
    backbones.freeze(network, 2)
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
    module(network).train()(torch.randn(8, 3, 32, 32))
    moved = {
        name
        for name, buffer in network.named_buffers()
        if name in before and not torch.equal(buffer, before[name])
    }
    learning = {name.rsplit(".", 1)[0] for name, one in network.named_parameters() if one.requires_grad}
    assert moved
    assert {name.rsplit(".", 1)[0] for name in moved} <= learning
    assert len(moved) == len([name for name in before if name.rsplit(".", 1)[0] in learning])


def test_frozen_batch_norms_keep_theirs_even_where_the_block_learns():
    network = timm.create_model("test_efficientnet", num_classes=3)
    backbones.freeze(network, "all")
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    module(network, batch_norm="frozen").train()(torch.randn(8, 3, 32, 32))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("settings", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_mixed_labels_say_what_is_in_the_picture(settings):
    torch.manual_seed(0)
    codes = torch.tensor([0, 1, 2, 0])
    pictures = torch.stack([torch.full((3, 32, 32), float(code)) for code in codes])
    mixed, targets = module(nn.Identity(), **settings)._mixed(pictures, codes)
    assert torch.allclose(targets.sum(dim=1), torch.ones(4))
    # Each picture is a constant of its code, so the mean of a mixture is the mean of its label.
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets @ torch.arange(3.0), atol=1e-4)


def test_a_moving_average_forgets_its_start_first_quickly_then_slowly():
    average = MovingAverage(0.99)._kwargs["multi_avg_fn"]
    kept = [torch.zeros(1)]
    shares = []
    for updates in (0, 10, 10_000):
        kept[0].zero_()
        average(kept, [torch.ones(1)], updates)
        shares.append(float(kept[0]))
    assert shares == pytest.approx([0.9, 0.45, 0.01])
    counter = [torch.tensor(3)]
    average(counter, [torch.tensor(7)], 5)
    assert int(counter[0]) == 7
