"""Where a sound comes from, in closed form: no shared space of the encoders, no label, no gradient, no exemplar.

Dimension letters: ``N`` clips, ``L`` slots, ``S`` patches of a slot, ``D`` visual channels, ``K`` numbers that tell of
the sound of a slot: loudness (K = 1), or an audio token by slot (`avcil.tokens.tokens.frame_audio`).
"""

import torch
from torch import Tensor


def change(tokens: Tensor) -> Tensor:
    """What differs from the clip's mean over its slots, [N,L,...]; float64, as sums over many clips want it."""
    tokens = tokens.double()
    return tokens - tokens.mean(1, keepdim=True)


def check_slots(visual: Tensor, sound: Tensor) -> None:
    if visual.dim() != 4 or sound.dim() != 3 or visual.shape[:2] != sound.shape[:2]:
        shapes = f"{tuple(visual.shape)} and {tuple(sound.shape)}"
        raise ValueError(f"visual [N,L,S,D] and sound [N,L,K] are of shape {shapes}; bring both to the same slots")


def explained_change(visual: Tensor, sound: Tensor, components: int = 1) -> Tensor:
    """The square root of the share of each patch's change over the slots that the sound of its clip explains.

        m_s = √( Σ_k ‖Σ_l u_lk v̇_ls‖² / Σ_l ‖v̇_ls‖² )   in [0, 1]

    with v̇_ls = v_ls − mean_l v_ls, and u [L,components] the leading left singular vectors of the sound less its mean
    over the slots: of loudness, its normalised change. Nothing is estimated across clips, and signs do not matter: a
    patch may grow brighter or darker with its sound. A patch or a sound without change gives 0.

    Args:
        visual: [N,L,S,D]. sound: [N,L,K].
        components: how many of the min(L, K) to take; with as many as L − 1, everything is explained.

    Returns the similarity [N,L,S], the same in all slots, float32. Raises ValueError for other shapes.
    Source: ours; the share is the coefficient of determination R² of a multivariate regression.
    """
    check_slots(visual, sound)
    u, size, _ = torch.linalg.svd(change(sound), full_matrices=False)
    # directions without any change are arbitrary, and would explain something
    u = (u * (size > 1e-6 * sound.double().abs().amax((1, 2))[:, None])[:, None])[..., :components]
    changed = change(visual)
    explained = torch.einsum("nlk,nlsd->nksd", u, changed).square().sum((1, 3))
    # what rounding leaves of a patch that stands still is no change
    still = 1e-12 * visual.double().square().sum((1, 3))
    total = changed.square().sum((1, 3))
    share = torch.where(total > still, explained / total, 0.0)
    return share.sqrt().float()[:, None].expand(-1, visual.shape[1], -1)
