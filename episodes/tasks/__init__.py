"""What a task is: a class, some classes, a permutation, a regression. One file a kind, with the options of its stream."""
