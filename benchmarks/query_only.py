"""What query-only attention costs: its first layer factorised or not, beside full attention, and along a stream.

    python benchmarks/query_only.py            # a few minutes; --threads 1

`pairs`: 1 000 queries against 1 000 supports of width 128, one hidden layer of 128; row 0 concatenates every pair.
`support`: one prediction on permuted MNIST (7 x 7) with the paper's networks, by the number of labelled examples.
`stream`: updates a second on slowly changing regression, for one seed and three side by side, each predicted first.
"""

import statistics
import time
from collections.abc import Callable

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from episodes import STREAMS, EpisodeSpec, Examples, SeededStream
from metacl.benchmarking.measure import peak_bytes
from metacl.learners.similarity.full_attention import FullAttentionConfig
from metacl.learners.similarity.pairwise import PairNetwork, ScoreConfig, pair_scores
from metacl.recipes.presets import trained_for
from metacl.recipes.settings import along
from metacl.runs.environment import environment

MNIST = EpisodeSpec("vector", (49,), "cross_entropy", symbols=10)


def main(threads: int | None = None, supports: tuple[int, ...] = (100, 1_000, 10_000)) -> None:
    """Prints all three tables.

    Arguments:
        threads: of torch. Default: all.
        supports: labelled examples, of `support`.
    """
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)
    about = environment()
    print({name: about[name] for name in ("commit", "processor", "cores", "threads", "packages")})
    pairs()
    support_sizes(supports)
    stream()


def pairs() -> None:
    q, s = torch.randn(2, 1, 1_000, 128).unbind()
    network = PairNetwork(ScoreConfig(hidden=128), 128, 0).requires_grad_(False)
    weights = {name: p[None] for name, p in network.named_parameters()}
    forms = {"concatenated": lambda: network(q, s), "factorised": lambda: pair_scores(weights, q, s, None)}
    seconds = {name: median_seconds(form) for name, form in forms.items()}
    for name, form in forms.items():
        megabytes, ratio = peak_bytes(form, torch.device("cpu")) / 1e6, seconds["concatenated"] / seconds[name]
        print(f"pairs    {name:14} {seconds[name]:8.3f} s  {megabytes:8.0f} MB  {ratio:6.1f} x row 0")


def support_sizes(supports: tuple[int, ...]) -> None:
    configs = {
        "query-only": trained_for("query-only", None, along(STREAMS["permuted-mnist"])),
        "full": FullAttentionConfig(layers=10),
    }
    learners = {name: config.build(MNIST) for name, config in configs.items()}
    states = {name: learner.start([0]) for name, learner in learners.items()}
    for m in supports:
        support = Examples(torch.rand(1, m, 49), torch.randint(0, 10, (1, m)), torch.zeros(1, m, dtype=torch.long))
        query = torch.rand(1, 1, 49)
        found = {}
        for name, learner in learners.items():

            def predict(learner=learner, state=states[name], support=support, query=query) -> torch.Tensor:
                with torch.no_grad():
                    return learner.predict_with(state, support, query)

            with FlopCounterMode(display=False) as counter:
                predict()
            found[name] = counter.get_total_flops() / 2, median_seconds(predict)
        (products, seconds), (products_full, seconds_full) = found["query-only"], found["full"]
        print(
            f"support  {m:6}  query-only {products:.3g} multiply-adds, {seconds:.4f} s; full attention {products_full:.3g}, "
            f"{seconds_full:.4f} s; ratio {products_full / products:.2f} and {seconds_full / seconds:.2f}"
        )


def stream() -> None:
    named = STREAMS["slowly-changing-regression"]
    source = named.config.load()
    learner = trained_for("query-only", None, along(named)).build(source.spec)
    seconds = {}
    for seeds in ([0], [0, 1, 2]):
        examples = SeededStream(source, seeds).task(0).train[:2_000]
        seconds[len(seeds)] = median_seconds(lambda s=seeds, e=examples: learner.learn_predict(learner.start(s), e)[1])  # type: ignore[misc]
        print(f"stream   {len(seeds)} seeds  {2_000 / seconds[len(seeds)]:.0f} updates a second")
    print(f"stream   three seeds cost {seconds[3] / seconds[1]:.2f} times one")


def median_seconds(work: Callable[[], torch.Tensor], times: int = 3) -> float:
    work()
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


if __name__ == "__main__":
    tyro.cli(main)
