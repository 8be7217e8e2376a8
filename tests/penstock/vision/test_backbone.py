"""The network: whose weights are in it, what learns, and how it lies on disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from penstock.config import Backbone
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones


def lite(weights: str = "package", **changes: object) -> Backbone:
    return Backbone.model_validate(
        {"name": "tf_efficientnet_lite0", "weights": weights, "side": 224} | changes
    )


@pytest.fixture(scope="module")
def photographs() -> dict[str, torch.Tensor]:
    """Two photographs that come with scikit-image, uint8, shape (1, 3, height, width)."""
    data = pytest.importorskip(
        "skimage.data", reason="scikit-image, of the group dev, brings two known photographs"
    )
    return {
        name: torch.from_numpy(np.ascontiguousarray(getattr(data, name)())).permute(2, 0, 1)[None]
        for name in ("cat", "coffee")
    }


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"])
def test_the_weights_of_imagenet_are_really_in_the_network(name, photographs):
    settings = lite(name=name, side=timm.get_pretrained_cfg(name).input_size[-1], crop_share=0.875)
    network = backbones.create(settings, None).eval()
    prepare = backbones.preprocess(settings, network)
    with torch.inference_mode():
        found = {kind: network(prepare(photo)).softmax(1)[0] for kind, photo in photographs.items()}
    # ImageNet: 281 to 285 are cats, 967 is espresso.
    assert int(found["cat"].argmax()) in range(281, 286)
    assert int(found["coffee"].argmax()) == 967
    assert float(found["coffee"][967]) > 0.5


def test_a_new_classifier_knows_nothing_yet():
    network = backbones.create(lite(), 7).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 3, 64, 64)).abs().max() == 0
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_weights_from_a_file_are_those_of_the_file(tmp_path):
    donor = backbones.create(lite(weights="random"), 5)
    save_file(
        {name: tensor.contiguous() for name, tensor in donor.state_dict().items()}, tmp_path / "w.safetensors"
    )
    network = backbones.create(lite(weights="file", path=str(tmp_path / "w.safetensors")), 3)
    assert torch.equal(network.conv_stem.weight, donor.conv_stem.weight)
    assert network.get_classifier().weight.shape[0] == 3


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    donor = timm.create_model("tf_efficientnet_lite1")
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        PenstockError, match=r"w\.safetensors do not fit EfficientNet: 0 of .* unknown: blocks\."
    ):
        backbones.create(lite(weights="file", path=str(tmp_path / "w.safetensors")), 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"name": "tf_eficientnet_lite0"},
            "timm has no network 'tf_eficientnet_lite0'\n.*tf_efficientnet_lite0",
        ),
        ({"name": "resnet18"}, "there is no package of weights for resnet18\n.*tf_efficientnet_lite0"),
        ({"weights": "file", "path": "none.safetensors"}, "none.safetensors: there is no such file"),
    ],
)
def test_what_cannot_be_made_is_named(changes, says):
    with pytest.raises(PenstockError, match=says):
        backbones.create(lite(**changes), 3)


def test_a_truncated_file_of_weights_is_named(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(PenstockError, match=r"w\.safetensors: not a readable safetensors file"):
        backbones.create(lite(weights="file", path=str(tmp_path / "w.safetensors")), 3)


def test_a_package_whose_file_was_changed_is_not_opened(monkeypatch):
    package, file, _ = backbones.PACKAGES["tf_efficientnet_lite0"]
    monkeypatch.setitem(backbones.PACKAGES, "tf_efficientnet_lite0", (package, file, "0" * 64))
    with pytest.raises(PenstockError, match="its SHA-256 is 579344248a93"):
        backbones.create(lite(), 3)


# --- what learns ------------------------------------------------------------------------------------


def learning(network) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_more_blocks_unfrozen_are_more_parameters_and_the_classifier_always(name):
    network = timm.create_model(name, num_classes=3)
    depth = len(backbones.blocks(network)) - 1
    seen = []
    for unfreeze in (*range(1, depth + 1), "all"):
        backbones.freeze(network, unfreeze)
        seen.append(learning(network))
    assert all(fewer < more for fewer, more in itertools.pairwise(seen[:-1]))
    assert seen[-1] == {name for name, _ in network.named_parameters()}
    head = network.pretrained_cfg["classifier"]
    assert all(f"{head}.weight" in names for names in seen)


def test_blocks_are_unfrozen_by_name():
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    backbones.freeze(network, ("blocks.6", "conv_head"))
    assert {name.split(".0.")[0] for name in learning(network)} == {
        "blocks.6",
        "conv_head.weight",
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("unfreeze", "says"),
    [(9, "9 blocks are wanted, EfficientNet has 8"), (("blocks.7",), "no module 'blocks.7'\n.*blocks.6")],
)
def test_a_block_that_is_not_there_is_named(unfreeze, says):
    with pytest.raises(PenstockError, match=says):
        backbones.freeze(timm.create_model("tf_efficientnet_lite0"), unfreeze)


def test_each_block_learns_slower_than_the_one_above_it_and_norms_do_not_decay():
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    backbones.freeze(network, 3)
    groups = backbones.parameter_groups(network, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    sizes = {}
    for group in groups:
        plain = {parameter.ndim <= 1 for parameter in group["params"]}
        assert plain == {group["weight_decay"] == 0.0}
        for parameter in group["params"]:
            sizes[id(parameter)] = group["lr"]
    rates = {
        name: sizes[id(parameter)] for name, parameter in network.named_parameters() if id(parameter) in sizes
    }
    assert rates["classifier.weight"] == 1.0
    assert rates["blocks.6.0.conv_pw.weight"] == rates["conv_head.weight"] == 0.5
    assert rates["blocks.5.0.conv_pw.weight"] == 0.25
    assert rates["blocks.4.0.conv_pw.weight"] == 0.125
    assert set(rates) == learning(network)


# --- on disk ----------------------------------------------------------------------------------------


def test_a_saved_network_comes_back_and_its_bytes_repeat(tmp_path, backbone):
    torch.manual_seed(3)
    network = backbones.create(backbone, 3).eval()
    backbones.save(tmp_path / "a.safetensors", network, ("x", "y", "z"))
    backbones.save(tmp_path / "b.safetensors", network, ("x", "y", "z"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again, classes = backbones.load(tmp_path / "a.safetensors", backbone)
    seen = torch.randn(2, 3, 32, 32)
    assert classes == ("x", "y", "z")
    assert torch.equal(again(seen), network(seen))


def test_a_file_that_is_not_ours_is_named(tmp_path, backbone):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(PenstockError, match="not weights that this project wrote"):
        backbones.load(tmp_path / "a.safetensors", backbone)
    with pytest.raises(PenstockError, match="no such file"):
        backbones.load(Path("none.safetensors"), backbone)
