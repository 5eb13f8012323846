"""Classifier of PODNet and AFC: several proxies a class, those of past classes stay. As `classifier: proxies`.

Source: Douillard et al., PODNet, ECCV 2020, arXiv 2004.13513; used by AFC, Kang et al., CVPR 2022, arXiv 2204.00895.

Dimension letters: ``B`` clips, ``E`` feature channels, ``C`` classes, ``K`` proxies of a class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# of a class, as in AV-CIL's code
PROXIES = 10


class ProxyClassifier(nn.Module):
    """Local similarity classifier: s_ck = −‖ẑ − ŵ_ck‖², logit_c = Σ_k softmax_k(s_ck) s_ck, hats meaning unit length.

    ``scale`` is the learnt factor of the NCA loss.
    """

    kept: Tensor

    def __init__(self, features: int):
        super().__init__()
        # a buffer: in the checkpoint, and nothing that an optimiser moves
        self.register_buffer("kept", torch.empty(0, features))
        self.weight = nn.Parameter(torch.empty(0, features))
        # goes on from task to task, where AV-CIL's code starts each at 1; only the loss reads it
        self.scale = nn.Parameter(torch.tensor(1.0))

    @property
    def classes(self) -> int:
        return (len(self.kept) + len(self.weight)) // PROXIES

    def grow(self, classes: int) -> None:
        """Keep all proxies there are; append freshly drawn ones until there are ``classes``."""
        self.kept = torch.cat([self.kept, self.weight.detach()])
        features = self.kept.shape[1]
        # of a length of about 1
        self.weight = nn.Parameter(torch.randn(PROXIES * classes - len(self.kept), features) * features**-0.5)

    def grow_as(self, state: dict[str, Tensor], classes: int) -> None:
        """Take the shapes of a checkpoint of so many classes."""
        # in two steps, or past proxies too would have their place in `weight`
        if "classifier.kept" in state:
            self.grow(len(state["classifier.kept"]) // PROXIES)
        self.grow(classes)

    def forward(self, features: Tensor) -> Tensor:
        """features [B,E]; [B,C]."""
        proxies = F.normalize(torch.cat([self.kept, self.weight]), dim=-1)
        # −‖ẑ − ŵ‖² = 2 ẑ·ŵ − 2 for unit vectors: one product in place of all differences
        closeness = 2 * F.normalize(features, dim=-1) @ proxies.T - 2
        closeness = closeness.unflatten(1, (-1, PROXIES))
        return (closeness.softmax(-1) * closeness).sum(-1)


build = ProxyClassifier
