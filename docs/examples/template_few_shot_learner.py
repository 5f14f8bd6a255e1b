"""Template of a few-shot learner of your own: the class of the most similar mean direction."""

from typing import Any

from torch import Tensor, nn

import meta_rl
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory
from meta_rl.few_shot.learners.protonet import prototypes


class CosineNet(EmbeddingLearner):
    """Prototypical network with cosine similarity.

    ``EmbeddingLearner`` embeds the support set (``adapt``) and trains the network end to end by
    cross-entropy; a learner adds how it compares queries with what it remembers.

    Args:
        network: An embedding, such as ``conv4()``.
        sharpness: Factor of the similarities, above 0.
        **settings: Further arguments of :class:`.FewShotLearner`.
    """

    def __init__(self, network: nn.Module, *, sharpness: float = 10.0, **settings: Any) -> None:
        super().__init__(network, **settings)
        self.sharpness = sharpness

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the logits ``[M, Q, W]`` of queries ``[M, Q, D]``."""
        means, _ = prototypes(memory)  # [M, W, D]
        means, queries = (nn.functional.normalize(one, dim=-1) for one in (means, queries))
        return self.sharpness * queries @ means.transpose(1, 2)


meta_rl.register_algorithm("my-cosine", f"{__name__}:CosineNet")
