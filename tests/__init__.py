"""The tests: one file a module; `faults` attacks the command lines (python -m tests.faults)."""
