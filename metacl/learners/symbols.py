"""Label symbols as vectors, where they enter a learner and where it answers with them."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metacl.learners.matching import answer_by_transpose, silence


def symbol_codes(symbols: int, width: int) -> Tensor:
    """(V, E) random rows of length sqrt(E), each `width` of them orthogonal: votes for so many symbols do not blur.

    Every block of `width` rows has a counter of its own in a counter-based generator, so a learner with more symbols has the
    same first ones.
    """
    blocks = []
    for first in range(0, max(symbols, 1), width):
        noise = np.random.Generator(np.random.Philox(key=first)).standard_normal((width, width))
        rotation, triangle = np.linalg.qr(noise)
        blocks.append(rotation * np.sign(np.diag(triangle)) * width**0.5)
    return torch.from_numpy(np.concatenate(blocks)[:symbols]).to(torch.get_default_dtype())


class RandomSymbols(nn.Module):
    """Symbol v is a fixed random vector, row v of an endless table: the vocabulary has no limit and no parameters.

    Arguments:
        symbols: how many there are (V).
        width: features of a code, as it enters a learner (E).
        answer_width: features of what a learner answers with (D); None: it answers otherwise.
    """

    codes_VE: Tensor

    def __init__(self, symbols: int, width: int, answer_width: int | None):
        super().__init__()
        self.register_buffer("codes_VE", symbol_codes(symbols, width), persistent=False)
        self.write = nn.Linear(width, width)
        self.answer = None if answer_width is None else nn.Linear(answer_width, width)

    def embed(self, y_BN: Tensor) -> Tensor:
        """(B, N) symbols -> (B, N, E)."""
        return self.write(self.codes_VE[y_BN])

    def logits(self, h_BMD: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V), of a learner that answers so."""
        assert self.answer is not None
        return self.answer(h_BMD) @ self.codes_VE.mT * self.codes_VE.shape[1] ** -0.5

    def start_matching(self, unanimous: float) -> None:
        """`embed` rotates, and the answer reads what it wrote; a code that is read back whole has the logit `unanimous`."""
        answer_by_transpose(self.write, self.answer, unanimous * self.codes_VE.shape[1] ** -0.5)


class LearnedSymbols(nn.Module):
    """A learnt table to enter, a linear layer to answer, as published. A symbol that was never trained means nothing.

    Arguments: as of `RandomSymbols`.
    """

    def __init__(self, symbols: int, width: int, answer_width: int | None):
        super().__init__()
        self.table = nn.Embedding(symbols, width)
        self.answer = None if answer_width is None else nn.Linear(answer_width, symbols)

    def embed(self, y_BN: Tensor) -> Tensor:
        """(B, N) symbols -> (B, N, E)."""
        return self.table(y_BN)

    def logits(self, h_BMD: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V), of a learner that answers so."""
        assert self.answer is not None
        return self.answer(h_BMD)

    @torch.no_grad()
    def start_matching(self, unanimous: float) -> None:
        """See `RandomSymbols`."""
        width = self.table.embedding_dim
        self.table.weight.copy_(F.normalize(self.table.weight, dim=1) * width**0.5)
        if self.answer is not None:
            silence(self.answer)
            self.answer.weight[:, -width:] = self.table.weight * unanimous / width


SYMBOLS: dict[str, type[RandomSymbols] | type[LearnedSymbols]] = {"random": RandomSymbols, "learned": LearnedSymbols}
