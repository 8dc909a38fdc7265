"""What learners of frozen features share: their inputs are vectors, which are taken as they are."""

import math

import torch
from torch import Tensor

from episodes import EpisodeSpec, UserError
from metacl.learners.protocol import Learner
from metacl.nets.encoders import must_be_vectors


class OfVectors(Learner):
    """A classifier of vectors in which nothing is trained by gradients.

    Arguments:
        name: what it is called in errors.

    Raises:
        UserError: inputs are images, or the task is a regression.
    """

    anchor: Tensor

    def __init__(self, name: str, spec: EpisodeSpec):
        super().__init__(spec)
        if not spec.classification:
            raise UserError(f"{name} is for classification; this is a regression. Take alpaca, bp or offline.")
        must_be_vectors(name, spec)
        self.width = math.prod(spec.x_shape)
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # says on which device it is, and in which type

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(2).to(self.anchor.dtype)
