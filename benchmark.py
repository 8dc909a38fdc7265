"""Measures what attention mechanisms, learners and episodes cost: see `python benchmark.py --help`."""

from metacl.cli import benchmark_main

if __name__ == "__main__":
    benchmark_main()
