"""A run of pre-training on disk, and the backbone that it leaves.

config.json  environment.json  metrics.jsonl  checkpoints/  backbone/

backbone/ has what others need, and can be copied: model.safetensors, config.json in the words of Hugging Face (with the names
of the classes that it has seen), and trained-on.npy, which says which images these were.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from episodes import UserError
from episodes.data.backbones.vit import VisionTransformer
from episodes.data.backbones.vit_files import OF_A_RUN
from metacl.recipes.files import pretrain_config
from metacl.recipes.pretraining import PretrainConfig
from metacl.runs.files import read_json, to_disk, write_json
from metacl.runs.folder import RunFolder, contiguous, read_config
from metacl.runs.trained_on import FILE, digest_of_ids


@dataclass(frozen=True)
class PretrainingRun(RunFolder):
    """The folder of a pre-training."""

    config: PretrainConfig

    @staticmethod
    def open(folder: Path) -> "PretrainingRun":
        """Raises `UserError` where `folder` is none."""
        return PretrainingRun(folder, pretrain_config(read_config(folder, "train.py pretrain"), folder / "config.json"))

    @property
    def backbone(self) -> Path:
        """The folder of the backbone."""
        return self.folder / OF_A_RUN

    def write_backbone(self, network: VisionTransformer, classes: Sequence[str], ids: np.ndarray, epochs: int) -> None:
        """Puts it in the place of an earlier one.

        Arguments:
            classes: the names of those that it was trained to tell.
            ids: of the images that it was trained on (`episodes.data.identity.ids_of`).
            epochs: how many of the run's are done.
        """
        part, old = (self.backbone.with_suffix(suffix) for suffix in (".part", ".old"))
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)
        part.mkdir()
        save_file(contiguous(network.state_dict()), part / "model.safetensors")
        np.save(part / FILE, ids, allow_pickle=False)
        write_json(part / "config.json", _about(network, classes) | {"epochs": epochs, "trained_on": digest_of_ids(ids)})
        for path in (*part.iterdir(), part):
            to_disk(path)
        if self.backbone.exists():
            self.backbone.rename(old)
        part.rename(self.backbone)
        shutil.rmtree(old, ignore_errors=True)

    def check_data(self, fingerprint: str) -> None:
        """Raises `UserError` where the images are not those that the run was started on."""
        path = self.folder / "environment.json"
        before = read_json(path).get("data_fingerprint") if path.exists() else fingerprint
        if before != fingerprint:
            raise UserError(
                f"The data of {self.folder} have changed (now {fingerprint}, then {before}): it cannot go on. Put them back as "
                "they were, say where they are now (--data.path), or train anew."
            )


def is_pretraining(folder: Path) -> bool:
    """Whether a folder is one of a pre-training, by its config.json."""
    path = folder / "config.json"
    return path.is_file() and isinstance(values := read_json(path), dict) and "shape" in values


def _about(network: VisionTransformer, classes: Sequence[str]) -> dict[str, object]:
    """What `episodes.data.backbones.vit_weights` reads, and the rest of the shape."""
    shape = network.config
    return {
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "layer_norm_eps": shape.norm_eps,
        "image_mean": shape.mean,
        "image_std": shape.deviation,
        "id2label": {str(number): name for number, name in enumerate(classes)},
    }
