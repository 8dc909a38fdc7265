"""Label symbols as vectors, where they enter a learner and where it answers with them."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from episodes import UserError
from metacl.learners.matching import answer_by_transpose, silence

LETTERS = 32
"""Letters of the alphabet of `WordSymbols`: two make 1 024 words."""


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


class WordSymbols(nn.Module):
    """A symbol is a word: L letters of an alphabet of `LETTERS`, each with a learnt vector for its place (CL-Seq).

    So a few vectors make many symbols, and one that was never trained means something: its letters. The answer says how likely
    each letter is in each place, and a symbol is as likely as its letters together. In the paper a word is as many tokens as
    letters, and each is answered with those before it given; here it is one token, and the letters are answered side by side.

    Arguments: as of `RandomSymbols`.
    """

    word_VL: Tensor

    def __init__(self, symbols: int, width: int, answer_width: int | None):
        super().__init__()
        length = next(length for length in range(1, 64) if LETTERS**length >= symbols)
        if width < length:
            raise UserError(f"Words of {length} letters need as many features; a label has {width}. Take a larger width.")
        place_L = torch.arange(length)
        word_VL = torch.arange(symbols)[:, None] // LETTERS**place_L % LETTERS + LETTERS * place_L
        self.register_buffer("word_VL", word_VL, persistent=False)
        self.length, self.spare = length, width % length
        self.table = nn.Embedding(length * LETTERS, width // length)
        self.answer = None if answer_width is None else nn.Linear(answer_width, length * LETTERS)

    def embed(self, y_BN: Tensor) -> Tensor:
        """(B, N) symbols -> (B, N, E): the vectors of the letters, side by side."""
        return F.pad(self.table(self.word_VL[y_BN]).flatten(-2), (0, self.spare))

    def logits(self, h_BMD: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, V), of a learner that answers so: log probabilities of words, but for a constant."""
        assert self.answer is not None
        letters = self.answer(h_BMD).unflatten(-1, (self.length, LETTERS)).log_softmax(-1).flatten(-2)
        return letters[..., self.word_VL].sum(-1)

    @torch.no_grad()
    def start_matching(self, unanimous: float) -> None:
        """See `RandomSymbols`. The letters of a place are as different as they can be."""
        part = self.table.embedding_dim
        for letters in self.table.weight.split(LETTERS):
            letters.copy_(F.normalize(nn.init.orthogonal_(torch.empty_like(letters)), dim=1) * part**0.5)
        if self.answer is not None:
            silence(self.answer)
            width = self.length * part + self.spare
            for i, letters in enumerate(self.table.weight.split(LETTERS)):
                first = self.answer.in_features - width + i * part
                self.answer.weight[i * LETTERS : (i + 1) * LETTERS, first : first + part] = letters * unanimous / part


SYMBOLS: dict[str, type[RandomSymbols] | type[LearnedSymbols] | type[WordSymbols]] = {
    "random": RandomSymbols,
    "learned": LearnedSymbols,
    "words": WordSymbols,
}
