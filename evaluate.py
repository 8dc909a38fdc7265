"""Evaluate a meta-trained learner on held-out streams: `python evaluate.py RUN`; `--help` says more."""

from metacl.cli import evaluate_main

if __name__ == "__main__":
    evaluate_main()
