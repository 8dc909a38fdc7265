"""The benchmarks that have a name and a data set, and what a benchmark is."""
