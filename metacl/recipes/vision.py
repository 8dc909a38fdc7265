"""Settings of learners on a pre-trained vision transformer: `small` for a few minutes on two cores, and `paper`.

The papers' are those for CIFAR-100 on a ViT-B/16 pre-trained with labels on ImageNet-21K, from the official code of NoRGa; of
CODA-Prompt, which is not in it, from its own. There is no published recipe of the one prefix; it has that of the others.
`small` has the ViT-S/14 of DINOv2 on images of 98 pixels, smaller batches and fewer epochs.
In both, images are normalised as the weights want it, scaled bilinearly, and not changed in colour.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from metacl.learners import LearnerConfig
from metacl.learners.vision.adam_nscl import AdamNsclConfig
from metacl.learners.vision.coda import CodaConfig
from metacl.learners.vision.ease import EaseConfig
from metacl.learners.vision.hide import AlignmentConfig, HidePromptConfig
from metacl.learners.vision.inf_lora import InfLoraConfig
from metacl.learners.vision.l2p import L2PConfig
from metacl.learners.vision.lora import LoraConfig
from metacl.learners.vision.matched import MatchedConfig
from metacl.learners.vision.plastic import PlasticConfig
from metacl.learners.vision.prefix import PrefixConfig
from metacl.learners.vision.trunk import TrunkConfig
from metacl.learners.vision.tuned import TunedConfig
from metacl.recipes.settings import Settings

LIGHT = TrunkConfig("dinov2-small", 98)
BASE = TrunkConfig("vit-b16", area=0.08)
FROM_NOTHING = TrunkConfig("vit-micro-32", area=1.0, precision="fp32")
RATES, TUNING_RATES, LORA_RATES = (0.015, 0.005, 0.05), (5e-5, 1e-5, 2e-4), (5e-4, 2e-4, 2e-3)
PLASTIC_RATES = (1e-3, 3e-4, 3e-3)
ADAPTER_RATES = (0.025, 0.01, 0.05)
PROMPT_RATES = (0.0025, 0.001, 0.01)
"""Rates to choose from along episodes; the first of HiDe-Prompt and NoRGa, the last of the other methods of prompts."""

SMALL: dict[str, Any] = {"trunk": LIGHT, "batch_size": 32, "epochs": 5}
SHORT = AlignmentConfig(rate=0.005, epochs=10, samples=64)
LONG = replace(SHORT, rate=0.05, epochs=27)
"""Of HiDe-Prompt and of NoRGa: the second has ten times the rate, and 80 / 30 times the epochs, as published."""


def small(learner: LearnerConfig, **options: Any) -> Callable[[Settings], LearnerConfig]:
    return lambda s: replace(learner, **SMALL | options)


def paper(learner: LearnerConfig, **options: Any) -> Callable[[Settings], LearnerConfig]:
    return lambda s: replace(learner, trunk=BASE, **options)


def hide() -> dict[str, Callable[[Settings], LearnerConfig]]:
    learner = HidePromptConfig()
    return {
        "small": small(learner, identity_alignment=SHORT, alignment=SHORT),
        "paper": paper(learner, epochs=50, schedule="step", identity_alignment=AlignmentConfig(0.0025)),
    }


def norga() -> dict[str, Callable[[Settings], LearnerConfig]]:
    """HiDe-Prompt with a gate, and with NoRGa's alignment, which is not the same."""
    learner = HidePromptConfig()
    return {
        "small": small(replace(learner, gate="tanh"), identity_alignment=SHORT, alignment=LONG),
        "paper": paper(
            replace(learner, gate="sigmoid"),
            epochs=50,
            schedule="step",
            identity_alignment=AlignmentConfig(0.0025),
            alignment=AlignmentConfig(0.05, 80, 640),
        ),
    }


def tuned(mode: Literal["sequential", "joint"]) -> dict[str, Callable[[Settings], LearnerConfig]]:
    """All weights trained; in `paper` with the batch and epochs of the prompt methods."""
    learner = TunedConfig(mode=mode)
    return {"small": small(learner), "paper": paper(learner, batch_size=128, epochs=20)}


def lora(**options: Any) -> dict[str, Callable[[Settings], LearnerConfig]]:
    """LoRA and LoRA-DRS; the rates of the papers in both recipes."""
    learner = LoraConfig(**options)
    return {"small": small(learner), "paper": paper(learner)}


def inf_lora() -> dict[str, Callable[[Settings], LearnerConfig]]:
    return {"small": small(InfLoraConfig()), "paper": paper(InfLoraConfig())}


def adam_nscl() -> dict[str, Callable[[Settings], LearnerConfig]]:
    """The published setting is of a ResNet; `paper` has the batch and epochs of the others."""
    return {"small": small(AdamNsclConfig()), "paper": paper(AdamNsclConfig())}


def ease() -> dict[str, Callable[[Settings], LearnerConfig]]:
    """In `small` the bottleneck is as narrow, for its transformer, as in the paper."""
    return {"small": small(EaseConfig(), rank=32), "paper": paper(EaseConfig())}


def prompts(learner: LearnerConfig) -> dict[str, Callable[[Settings], LearnerConfig]]:
    """Methods of prompts, whose configurations are the papers' settings."""
    return {"small": small(learner), "paper": paper(learner)}


def plastic(learner: PlasticConfig) -> dict[str, Callable[[Settings], LearnerConfig]]:
    """A small transformer from nothing, as nothing of the paper's is known but its shape."""
    return {"small": lambda s: replace(learner, trunk=FROM_NOTHING)}


PREFIX, L2P, CODA = prompts(PrefixConfig()), prompts(L2PConfig()), prompts(CodaConfig())
DUAL, S_PROMPT = prompts(MatchedConfig()), prompts(MatchedConfig(blocks=5, shared_blocks=0))
