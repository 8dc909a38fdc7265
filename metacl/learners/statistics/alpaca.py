"""ALPaCA: Bayesian linear regression on features (Harrison, Sharma, Pavone, WAFR 2018), exact after any number of examples."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from episodes import EpisodeSpec, Examples, UserError
from episodes.errors import at_least
from metacl.learners.distributed import Distributed
from metacl.learners.protocol import Learner
from metacl.nets.encoders import EncoderConfig, build_encoder


@dataclass(frozen=True)
class AlpacaConfig:
    """Linear regression on features. The encoder and the prior over the weights of the regression are meta-trained."""

    width: int = 128
    """Features of an example (D). The state has D x D numbers."""
    distributed: Distributed = None
    """When meta-training asks a query. None: at the end of the stream. `random`: once, after a random task from its own on.
    `every`: after each task from its own on."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        at_least(1, self, "learner.", "width")

    def build(self, spec: EpisodeSpec) -> "Alpaca":
        return Alpaca(self, spec)


class AlpacaState(NamedTuple):
    """The posterior over the weights of the regression, in natural parameters. F is the size of a target."""

    precision: Tensor
    """(B, D, D), Lambda = Lambda_0 + sum z z^T."""
    cross: Tensor
    """(B, D, F), Lambda_0 K_0 + sum z y^T."""


class Alpaca(Learner):
    """y = z^T Lambda^-1 cross. The order of the stream does not matter.

    The meta-loss is the squared error of this mean, as that of every learner here; the paper's is the logarithm of the density
    of y, which also has the variance (1 + z^T Lambda^-1 z) Sigma.
    """

    def __init__(self, config: AlpacaConfig, spec: EpisodeSpec):
        super().__init__(spec, config.distributed)
        if spec.classification:
            raise UserError("ALPaCA is for regression; this benchmark is a classification. Take pn, gemcl or sb-mcl.")
        self.encoder = build_encoder(config.encoder, spec, config.width)
        # Entries of L below its diagonal, and the logarithms of those on it: whatever they are, L L^T has an inverse.
        self.root_below_DD = nn.Parameter(torch.zeros(config.width, config.width))
        self.root_log_diagonal_D = nn.Parameter(torch.zeros(config.width))
        self.prior_mean_DF = nn.Parameter(torch.zeros(config.width, spec.outputs))

    @property
    def prior_precision(self) -> Tensor:
        """(D, D), Lambda_0 = L L^T."""
        root_DD = self.root_below_DD.tril(-1) + self.root_log_diagonal_D.exp().diag()
        return root_DD @ root_DD.mT

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(next(self.parameters()).dtype)  # out of autocast, as sums and their solution need it

    def init_state(self, batch_size: int) -> AlpacaState:
        with torch.autocast(self.prior_mean_DF.device.type, enabled=False):
            precision_DD = self.prior_precision
            prior = precision_DD, precision_DD @ self.prior_mean_DF
        return AlpacaState(*(part.expand(batch_size, -1, -1) for part in prior))

    def learn_features(self, state: AlpacaState, z_BND: Tensor, examples: Examples) -> AlpacaState:
        if examples.valid is not None:
            z_BND = z_BND * examples.valid[..., None]
        with torch.autocast(z_BND.device.type, enabled=False):
            precision_BDD = state.precision + z_BND.mT @ z_BND
            return AlpacaState(precision_BDD, state.cross + z_BND.mT @ examples.y.flatten(2).to(z_BND))

    def predict_features(self, state: AlpacaState, z_BMD: Tensor) -> Tensor:
        with torch.autocast(z_BMD.device.type, enabled=False):
            weight_BDF = torch.cholesky_solve(state.cross, torch.linalg.cholesky(state.precision))
            return self.shaped(z_BMD @ weight_BDF)
