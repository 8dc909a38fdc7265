"""What a task is: classes of a pool, regressions, permutations."""
