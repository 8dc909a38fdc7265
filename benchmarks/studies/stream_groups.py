"""What `streams.py` runs, and what Bekal et al. (2025) found in its place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Runs along one stream that are compared."""

    title: str
    stream: str
    images: str | None
    """Folder of the data."""
    options: str
    """Of all runs."""
    runs: dict[str, str]
    """By name: learner and options of its own, which come after those of all."""
    block: int = 10
    """Tasks whose mean is in the table. The paper's are 10, on MNIST 100, on Tiny ImageNet 90."""


COMPARED = ("query-only", "full-attention", "bp", "cbp", "l2-init", "er", "nadaraya-watson", "knn", "bp-same-buffer")
TUNED = ("query-only", "bp", "cbp", "l2-init", "er")


def same(*names: str) -> dict[str, str]:
    """Learners with the settings of their recipes."""
    return {name: name for name in names}


GROUPS = {
    "regression": Group(
        "slowly changing regression",
        "slowly-changing-regression",
        None,
        "--tasks 100 --seeds 0 1 2 --diagnose-every 10",
        same(*COMPARED) | {"label in the pair": "query-only --learner.score.label", "online-maml": "online-maml"},
    ),
    "mnist": Group(
        "permuted MNIST, 7 x 7",
        "permuted-mnist",
        "mnist",
        "--tasks 300 --seeds 0 1 2 --backward-every 10 --diagnose-every 60",
        same(*COMPARED, "bp-one"),
        block=100,
    ),
    "regression-rates": Group(
        "slowly changing regression, each with its best rate",
        "slowly-changing-regression",
        None,
        "--tasks 50 --seeds 0 1 2 --rates 1e-4 3e-4 1e-3 3e-3",
        same(*TUNED),
    ),
    "mnist-rates": Group(
        "permuted MNIST, 7 x 7, each with its best rate",
        "permuted-mnist",
        "mnist",
        "--tasks 100 --seeds 0 1 2 --backward-every 10 --rates 1e-4 3e-4 1e-3 3e-3",
        same(*TUNED),
    ),
    "mnist-options": Group(
        "permuted MNIST, 7 x 7, one seed",
        "permuted-mnist",
        "mnist",
        "--tasks 100 --backward-every 10",
        {
            "query-only": "query-only",
            "no label in the pair": "query-only --learner.score.no-label",
            "1000 supports": "query-only --learner.support 1000 --learner.buffer 1000",
            "online-maml": "online-maml",
        },
    ),
    "mnist-long": Group(
        "permuted MNIST, 7 x 7, one seed",
        "permuted-mnist",
        "mnist",
        "--tasks 1000 --backward-every 20 --diagnose-every 200",
        same("query-only", "bp", "cbp"),
        block=100,
    ),
    "imagenet": Group(
        "split Tiny ImageNet",
        "split-tiny-imagenet",
        "tiny-imagenet",
        "--tasks 100 --seeds 0 1 2 --backward-every 10 --diagnose-every 50",
        same(*COMPARED, "bp-one") | {"full-attention": "full-attention --seeds 0"},
        block=30,
    ),
    "imagenet-long": Group(
        "split Tiny ImageNet, one seed",
        "split-tiny-imagenet",
        "tiny-imagenet",
        "--tasks 500 --backward-every 10",
        same("query-only", "bp", "cbp", "l2-init", "er", "nadaraya-watson"),
        block=90,
    ),
}
PUBLISHED = {
    "regression": {
        "query-only": ("0.30 → 0.03", "0.60 → 0.07"),
        "full-attention": ("0.70 → 0.04", "2.7 → 0.20"),
        "bp": ("0.50 → 0.58", "2.6 → 2.8"),
        "cbp": ("0.57 → 0.49", "2.8 → 3.0"),
        "online-maml": ("1.75 → 0.6", "1.43 → 0.6"),
    },
    "mnist": {
        "query-only": ("32 → 57 → 79.7", "31 → 80.0"),
        "full-attention": ("20.9 → 39 → 79", "20 → 79.8"),
        "bp": ("81.4 → 82.7 → 68.5", "36 → 33.8"),
        "cbp": ("79.7 → 80.6 → 81.7", "34.4 → 36.0"),
    },
    "imagenet": {
        "query-only": ("60.5 → 73 → 85.1", "58.5 → 84.7"),
        "full-attention": ("47.7 → 53.8 → 85.1", "47.6 → 84.1"),
        "bp": ("68.5 → 75.8 → 59.5", "51.5 → 50.2"),
        "cbp": ("58.8 → 61.6 → 63", "50 → 50.6"),
    },
}
"""Forward and backward of Bekal et al. (2025), read off its curves: the first block (100 tasks on MNIST, 90 on Tiny ImageNet,
10 on regression), on images the mean of the first five, and the end, after 800 tasks of regression, 7 500 of MNIST and 9 000
of Tiny ImageNet."""
PUBLISHED |= {
    "mnist-long": PUBLISHED["mnist"],
    "imagenet-long": PUBLISHED["imagenet"],
    "mnist-options": {"1000 supports": ("36 → 63 → 86.6", "35 → 87.0")},
}
