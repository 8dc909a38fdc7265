"""The names of learners on a pre-trained vision transformer: a part of the one table of names."""

from collections.abc import Mapping

from metacl.recipes import vision
from metacl.recipes.preset import Preset, Trained


def _vision(about: str, recipes: Mapping[str, Trained], rates: tuple[float, ...] = vision.RATES) -> Preset:
    return Preset(about, trained=recipes, rates=rates, only="classification")


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
}
"""A name -> what it stands for."""
