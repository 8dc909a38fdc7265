"""Where the weights of a vision transformer are: a folder or file, or the Hugging Face hub."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from episodes.data.backbones.vit import VisionTransformer, VitConfig
from episodes.data.backbones.vit_weights import config_of, network_of, own_names
from episodes.data.digests import digest_of_file
from episodes.data.places import readable, user_path
from episodes.data.reading import cause
from episodes.errors import UserError

HUB = {
    "vit-b16": "google/vit-base-patch16-224-in21k",
    "dinov2-small": "facebook/dinov2-small",
    "dinov2-base": "facebook/dinov2-base",
}
"""A name -> the repository of the Hugging Face hub that has its weights."""
ABOUT = ("config.json", "preprocessor_config.json")
"""The files beside the weights that say how they are to be read."""
OF_A_RUN = "backbone"
"""The folder that has them in the folder of a run of pre-training, whose own config.json is about the run."""


@dataclass(frozen=True)
class VitFiles:
    """The weights of a vision transformer on this machine."""

    weights: Path
    """A safetensors file."""
    about: dict[str, object]
    """What the files beside it say, in the words of Hugging Face."""

    def config(self) -> VitConfig:
        """The shape of the transformer, without its weights. Raises `UserError` as `load`."""
        try:
            with safe_open(self.weights, "pt") as file:
                shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
            return config_of(own_names(shapes), self.about)
        except (OSError, SafetensorError) as error:
            raise self._unreadable(error) from error
        except ValueError as error:
            raise self._strange(error) from error

    def load(self) -> VisionTransformer:
        """The transformer, frozen. Raises `UserError` where the file cannot be read, or has weights of another network."""
        try:
            return network_of(load_file(self.weights), self.about)
        except (OSError, SafetensorError) as error:
            raise self._unreadable(error) from error
        except ValueError as error:
            raise self._strange(error) from error

    def digest(self) -> str:
        """Hex digest (SHA-256) of the weights; where the files beside them change what they mean (heads, normalisation), of
        both. Raises `UserError` as `load`."""
        digest, shape = digest_of_file(self.weights), self.config()
        alone = replace(self, about={}).config()
        return digest if shape == alone else hashlib.sha256(f"{digest} {shape}".encode()).hexdigest()

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.weights} cannot be read as safetensors ({cause(error)}). Write it again.")

    def _strange(self, error: Exception) -> UserError:
        return UserError(f"{self.weights} has not the weights of a vision transformer as it should be: {error}.")


def vit_files(name: str) -> VitFiles | None:
    """The files of a transformer by its name, its folder or its safetensors file; None: it is none of these.

    Raises:
        UserError: it has a name, and is neither on this machine nor to be had from the hub; or a file cannot be read.
    """
    if name in HUB:
        return _in_folder(_from_hub(name))
    path = user_path(name)
    if path.is_dir():
        return _in_folder(path)
    return VitFiles(path, _about(path.parent)) if path.suffix == ".safetensors" and _has_class_token(path) else None


def _has_class_token(path: Path) -> bool:
    """Whether a file has, by a look at its names, the weights of a transformer; False where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return any(name.endswith("cls_token") for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def _in_folder(folder: Path) -> VitFiles:
    """The files in a folder; in that of a run of pre-training, those in the folder `backbone` of it."""
    if (folder / OF_A_RUN).is_dir():
        folder = folder / OF_A_RUN
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise UserError(
            f"{folder} has {len(found) or 'no'} safetensors files; a backbone has one, with its weights. Name that file."
        )
    return VitFiles(found[0], _about(folder))


def _about(folder: Path) -> dict[str, object]:
    """What the JSON files of a folder say, where there are any."""
    found: dict[str, object] = {}
    for file in (folder / name for name in ABOUT):
        if file.is_file():
            with readable(file):
                text = file.read_text(encoding="utf-8")
            try:
                found |= json.loads(text)
            except (ValueError, TypeError) as error:
                raise UserError(f"{file} is no JSON object ({cause(error)}). Write it again.") from error
    return found


def _from_hub(name: str) -> Path:
    """The folder of a repository, which is fetched where it is not on this machine."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(HUB[name], allow_patterns=["model.safetensors", *ABOUT]))
    except Exception as error:  # of the network, of the hub, or of a cache that has nothing of it
        raise UserError(
            f"The weights of {name} ({HUB[name]}) are neither on this machine nor to be had from the Hugging Face hub "
            f"({cause(error)}). Check the network, or give a folder with model.safetensors and config.json."
        ) from error
