"""Nearest class mean on features as they are: SimpleCIL (Zhou, Cai, Ye, Zhan, Liu 2023, arXiv 2303.07338)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from episodes import EpisodeSpec, Examples
from metacl.learners.statistics.features import OfVectors
from metacl.learners.statistics.running import UNSEEN, ClassMeans, add_to_means, no_means


@dataclass(frozen=True)
class NearestMeanConfig:
    """The mean of the vectors of each class. There is nothing to be chosen, and nothing is trained."""

    def build(self, spec: EpisodeSpec) -> "NearestMean":
        return NearestMean("ncm", spec)


class NearestMean(OfVectors):
    """logit_v = cos(z, mean_v). The order of the stream does not matter.

    As in the paper the weights of a cosine classifier are the class means. Logits are from -1 to 1: the loss says little.
    `pn` takes squared distances, behind an encoder that is meta-trained.
    """

    def init_state(self, batch_size: int) -> ClassMeans:
        return no_means(self.anchor, batch_size, self.spec.symbols, self.width)

    def learn_features(self, state: ClassMeans, z_BND: Tensor, examples: Examples) -> ClassMeans:
        return add_to_means(state, z_BND, examples.y, examples.valid)

    def predict_features(self, state: ClassMeans, z_BMD: Tensor) -> Tensor:
        cosine_BMV = F.normalize(z_BMD, dim=-1) @ F.normalize(state.means, dim=-1).mT
        return cosine_BMV.masked_fill(state.counts[:, None] == 0, UNSEEN)
