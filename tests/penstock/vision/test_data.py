"""What a picture becomes depends on seed, epoch and picture alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Finetuning
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones
from penstock.vision.data import (
    EpochSampler,
    Pictures,
    augmentation,
    class_weights,
    evaluation_loader,
    read_album,
    read_split,
    seed_of,
    training_loader,
)


def sampled(rows: int, epoch: int, **settings) -> list[int]:
    sampler = EpochSampler(rows, 5, **settings)
    sampler.follow(lambda: epoch)
    assert len(list(sampler)) == len(sampler)
    return [place - epoch * rows for place in sampler]


@given(st.integers(1, 200), st.integers(0, 50), st.integers(1, 16))
def test_an_epoch_holds_each_picture_once_but_for_the_last_part_of_a_batch(rows, epoch, batch):
    places = sampled(rows, epoch, batch=batch)
    assert len(set(places)) == len(places)
    assert set(places) <= set(range(rows))
    assert rows - len(places) < batch


@given(st.integers(8, 200), st.integers(0, 5), st.sampled_from([1, 2, 3, 4]))
def test_two_processes_see_the_batches_of_one(rows, epoch, batch):
    alone = sampled(rows, epoch, batch=2 * batch)
    pair = [sampled(rows, epoch, batch=batch, rank=rank, world=2) for rank in (0, 1)]
    for step in range(len(alone) // (2 * batch)):
        joint = [place for places in pair for place in places[step * batch : (step + 1) * batch]]
        assert sorted(joint) == sorted(alone[2 * step * batch : 2 * (step + 1) * batch])


def test_epochs_differ_and_come_again():
    assert sampled(50, 0) != sampled(50, 1)
    assert sampled(50, 1) == sampled(50, 1)


def test_a_balanced_sampler_shows_all_classes_alike():
    codes = np.repeat([0, 1], [180, 20])
    weights = class_weights(codes, 2)[torch.from_numpy(codes)]
    drawn = Counter(
        int(codes[place]) for epoch in range(20) for place in sampled(200, epoch, weights=weights)
    )
    assert 0.9 < drawn[0] / drawn[1] < 1.1


def test_class_weights_average_to_one_over_the_pictures():
    codes = np.repeat([0, 1, 2], [10, 30, 60])
    weights = class_weights(codes, 3).numpy()
    assert weights[codes].mean() == pytest.approx(1.0)
    assert weights[0] / weights[2] == pytest.approx(6.0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4))
def test_a_seed_depends_on_each_of_its_numbers(numbers):
    assert seed_of(*numbers) == seed_of(*numbers)
    assert seed_of(*numbers) != seed_of(*numbers[:-1], numbers[-1] + 1)


@pytest.fixture
def pictures(album, backbone):
    raw, split = album()
    network = backbones.create(backbone, 3)

    def make(augment: str | None = "rand", seed: int = 1) -> tuple[Pictures, np.ndarray]:
        parts = read_split(split)
        rows = parts.parts["train"]
        changed = None
        if augment is not None:
            changed = augmentation(Finetuning(augment=augment), backbone.side, backbone.interpolation)
        prepare = backbones.preprocess(backbone, network)
        return Pictures(read_album(raw), rows, parts.codes, prepare, augment=changed, seed=seed), parts.codes[
            rows
        ]

    return make


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "trivial", "rand"])
def test_augmented_pictures_are_bytes_of_the_networks_side(pictures, backbone, augment):
    changed, _ = pictures(augment)
    found = torch.stack([changed[place][0] for place in range(len(changed))])
    assert found.dtype == torch.uint8
    assert found.shape == (36, 3, backbone.side, backbone.side)
    again = torch.stack([changed[place + len(changed)][0] for place in range(len(changed))])
    assert torch.equal(found, again) == (augment == "none")


def test_the_number_of_workers_changes_nothing(pictures):
    settings = Finetuning(batch_size=8)

    def batches(workers: int) -> torch.Tensor:
        changed, codes = pictures()
        loader = training_loader(changed, codes, settings, seed=1, workers=workers, rank=0, world=1)
        loader.sampler.follow(lambda: 2)
        return torch.stack([batch for batch, _ in loader])

    assert torch.equal(batches(0), batches(2))


def test_augmenting_leaves_the_random_numbers_of_others_alone(pictures):
    changed, _ = pictures()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    changed[0]
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_keeps_the_order_and_every_picture(pictures):
    plain, codes = pictures(None)
    loader = evaluation_loader(plain, batch=7, workers=1)
    assert torch.equal(torch.cat([found for _, found in loader]), torch.from_numpy(codes))


def test_a_picture_file_that_is_none_is_named(tmp_path):
    (tmp_path / "raw.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(PenstockError, match=r"raw\.parquet: not a readable Parquet file of pictures"):
        read_album(tmp_path / "raw.parquet")
    with pytest.raises(PenstockError, match="no such file"):
        read_album(tmp_path / "none.parquet")
