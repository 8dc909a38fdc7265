"""The fault harness: `python -m tests.faults` attacks the command lines and counts what came of it.

One file a kind of attack; each has `TRIES`, how often it is tried unless something else is asked, and `attack(seed, scene)`,
one try: all that is random in it comes from the seed.
"""
