"""Evaluate a learner on held-out streams: `python evaluate.py RUN`, or DATA LEARNER for one without meta-training."""

from metacl.cli import evaluate_main

if __name__ == "__main__":
    evaluate_main()
