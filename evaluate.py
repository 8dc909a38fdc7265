"""Evaluate a learner on held-out streams: `python evaluate.py RUN`, or DATA LEARNER without meta-training; `--help` says more."""

from metacl.cli import evaluate_main

if __name__ == "__main__":
    evaluate_main()
