"""Label symbols as vectors, where they enter a learner and where it answers with them."""

import numpy as np
import torch
from torch import Tensor, nn


def symbol_codes(symbols: int, width: int) -> Tensor:
    """(V, D) random rows of length sqrt(D).

    They are drawn one after another with a counter-based generator, so a learner with more symbols has the same first ones.
    """
    rows = np.random.Generator(np.random.Philox(key=0)).standard_normal((symbols, width))
    rows *= (width / np.square(rows).sum(1, keepdims=True)) ** 0.5
    return torch.from_numpy(rows).float()


class RandomSymbols(nn.Module):
    """Symbol v is a fixed random vector, row v of an endless table: the vocabulary has no limit and no parameters."""

    codes_VD: Tensor

    def __init__(self, symbols: int, width: int):
        super().__init__()
        self.register_buffer("codes_VD", symbol_codes(symbols, width), persistent=False)
        self.write = nn.Linear(width, width)
        self.answer = nn.Linear(width, width)

    def embed(self, y_BN: Tensor) -> Tensor:
        """(B, N) symbols -> (B, N, D)."""
        return self.write(self.codes_VD[y_BN])

    def logits(self, h_BMD: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V)."""
        return self.answer(h_BMD) @ self.codes_VD.mT * self.codes_VD.shape[1] ** -0.5


class LearnedSymbols(nn.Module):
    """A learnt table to enter, a linear layer to answer, as published. A symbol that was never trained means nothing."""

    def __init__(self, symbols: int, width: int):
        super().__init__()
        self.table = nn.Embedding(symbols, width)
        self.answer = nn.Linear(width, symbols)

    def embed(self, y_BN: Tensor) -> Tensor:
        """(B, N) symbols -> (B, N, D)."""
        return self.table(y_BN)

    def logits(self, h_BMD: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V)."""
        return self.answer(h_BMD)


SYMBOLS: dict[str, type[RandomSymbols] | type[LearnedSymbols]] = {"random": RandomSymbols, "learned": LearnedSymbols}
