"""Meta-train a continual learner: `python train.py DATA LEARNER`; `--help` says more."""

from metacl.cli import train_main

if __name__ == "__main__":
    train_main()
