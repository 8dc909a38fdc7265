"""The names of learners on a pre-trained vision transformer: a part of the one table of names."""

from collections.abc import Mapping

from metacl.learners.vision.plastic import PlasticConfig
from metacl.learners.vision.plastic_methods import (
    ArrowConfig,
    L2Config,
    L2InitConfig,
    NaPConfig,
    ParsevalConfig,
    ShrinkPerturbConfig,
    SpectralConfig,
    TracConfig,
)
from metacl.learners.vision.plastic_units import ContinualVitConfig, RedoVitConfig, ResetsConfig
from metacl.recipes import vision
from metacl.recipes.preset import Preset, Trained


def _vision(about: str, recipes: Mapping[str, Trained], rates: tuple[float, ...] = vision.RATES) -> Preset:
    return Preset(about, trained=recipes, rates=rates, only="classification")


def _plastic(about: str, learner: PlasticConfig) -> Preset:
    return _vision(about, vision.plastic(learner), vision.PLASTIC_RATES)


VISION: dict[str, Preset] = {
    "prefix": _vision("one prefix for all tasks on a vision transformer", vision.PREFIX, vision.PROMPT_RATES),
    "l2p": _vision("prompts from a pool, the nearest by key", vision.L2P, vision.PROMPT_RATES),
    "dualprompt": _vision("a shared prefix, and one for each task by key", vision.DUAL, vision.PROMPT_RATES),
    "s-prompt": _vision("a prefix for each task by key: S-Prompt++", vision.S_PROMPT, vision.PROMPT_RATES),
    "coda-prompt": _vision("prefixes as weighted sums of components", vision.CODA, vision.PROMPT_RATES),
    "hide-prompt": _vision("a prefix for each task on a vision transformer", vision.hide()),
    "norga": _vision("hide-prompt with a gate on the scores of prefixes", vision.norga()),
    "vit-finetune": _vision(
        "all weights of a vision transformer, task after task", vision.tuned("sequential"), vision.TUNING_RATES
    ),
    "vit-joint": _vision(
        "all weights of a vision transformer, on all images so far", vision.tuned("joint"), vision.TUNING_RATES
    ),
    "lora-sequential": _vision("low-rank weights for each task, all added up", vision.lora(), vision.LORA_RATES),
    "lora-joint": _vision("low-rank weights for all images so far", vision.lora(joint=True), vision.LORA_RATES),
    "adam-nscl": _vision(
        "weights of attention, in the null space of the inputs of earlier tasks", vision.adam_nscl(), vision.TUNING_RATES
    ),
    "inf-lora": _vision("low-rank weights that leave the inputs of earlier tasks alone", vision.inf_lora(), vision.LORA_RATES),
    "ease": _vision("an adapter for each task, prototypes in the space of each", vision.ease(), vision.ADAPTER_RATES),
    "lora-drs": _vision(
        "low-rank weights in the space that subtracting old ones leaves",
        vision.lora(space="subtracted", triplet=0.05),
        vision.LORA_RATES,
    ),
    "vit-bp": _plastic("a vision transformer trained on, task after task", PlasticConfig()),
    "vit-arrow": _plastic("vit-bp, gradients reshaped by their covariance: ARROW", ArrowConfig()),
    "vit-trac": _plastic("vit-bp that learns how far to go from its start: TRAC", TracConfig()),
    "vit-nap": _plastic("vit-bp with norms before each GELU and weights that keep theirs: NaP", NaPConfig()),
    "vit-l2": _plastic("vit-bp with an L2 penalty", L2Config()),
    "vit-l2-init": _plastic("vit-bp with a pull to the initial weights", L2InitConfig()),
    "vit-shrink-perturb": _plastic("vit-bp whose weights shrink and get noise", ShrinkPerturbConfig()),
    "vit-spectral": _plastic("vit-bp with largest singular values near 1", SpectralConfig()),
    "vit-parseval": _plastic("vit-bp with rows that are nearly orthogonal", ParsevalConfig()),
    "vit-cbp": _plastic("vit-bp that replaces units of little use", ContinualVitConfig()),
    "vit-redo": _plastic("vit-bp that replaces dormant units", RedoVitConfig()),
    "vit-snr": _plastic("vit-bp that replaces silent units: self-normalised resets", ResetsConfig()),
    "vit-muon": _plastic("vit-bp with Muon in place of AdamW", PlasticConfig(base="muon")),
    "vit-anew": _plastic("vit-bp from the initial weights in each task", PlasticConfig(anew=True)),
}
"""A name -> what it stands for."""
