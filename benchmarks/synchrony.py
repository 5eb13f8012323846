"""Another estimator of where a sound comes from, which no row uses; benchmarks/development.py compares it with
`avcil.tokens.guidance.explained_change`.

That one takes each clip by itself and wants objects that keep to their patches. This one also serves objects that move,
but wants encoders whose channels mean the same in all clips.

Dimension letters: ``N`` clips, ``L`` slots, ``S`` patches of a slot, ``D`` visual channels, ``K`` numbers that tell of
the sound of a slot.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from avcil.tokens.guidance import change, check_slots


class ChangeSums(NamedTuple):
    """Sums over clips, which forget nothing and do not depend on the order of clips: slots [], of v̇v̇ᵀ averaged over
    patches [D,D], of ȧȧᵀ [K,K], and of (mean_s v̇) ȧᵀ [D,K]; float64."""

    slots: Tensor
    visual: Tensor
    sound: Tensor
    cross: Tensor


def change_sums(visual: Tensor, sound: Tensor) -> ChangeSums:
    """Of new clips, visual [N,L,S,D] and sound [N,L,K]. Raises ValueError for other shapes."""
    check_slots(visual, sound)
    v, a = change(visual), change(sound).flatten(0, 1)
    patches, mean = v.flatten(0, 2), v.mean(2).flatten(0, 1)
    count = torch.tensor(float(len(a)), dtype=torch.float64)
    return ChangeSums(count, patches.T @ patches / visual.shape[2], a.T @ a, mean.T @ a)


def synchrony(visual: Tensor, sound: Tensor, sums: ChangeSums, damping: float = 1.0) -> Tensor:
    """How far each patch changes as patches do, over clips, when the sound changes so.

        m_ls = v̇_lsᵀ F ȧ_l / σ,   F = Σ_v⁻¹ C Σ_a⁻¹,   σ² = tr(F Σ_a Fᵀ Σ_v)

    Σ_v, Σ_a and C are the covariances of ``sums``, with damping · tr(Σ)/dim added to the diagonals that are inverted;
    σ is the spread of the form where patch and sound have nothing to do with each other. Were (v̇, ȧ) of the sounding
    patch jointly Gaussian, the form would be the term of lowest order of log p(v̇ | ȧ) − log p(v̇). C is estimated from
    the mean patch of each slot: silent patches do not co-vary with the sound, so they only scale it.

    Args:
        visual: [N,L,S,D]. sound: [N,L,K], in the units of ``sums``. sums: of all clips seen so far.

    Returns the similarity [N,L,S], float32; zeros where nothing ever changed. Raises ValueError for other shapes.
    Source: ours.
    """
    check_slots(visual, sound)
    cov_v, cov_a, cross = (total / sums.slots.clamp(min=1) for total in sums[1:])
    inverse_v, inverse_a = (
        torch.linalg.pinv(cov + damping * cov.trace() / len(cov) * torch.eye(len(cov), dtype=cov.dtype), hermitian=True)
        for cov in (cov_v, cov_a)
    )
    form = inverse_v @ cross @ inverse_a
    spread = (form @ cov_a @ form.T * cov_v).sum().clamp(min=0).sqrt()
    if spread == 0:
        return visual.new_zeros(visual.shape[:3], dtype=torch.float32)
    return (torch.einsum("nlsd,da,nla->nls", change(visual), form, change(sound)) / spread).float()
