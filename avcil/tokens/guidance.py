"""Where a sound comes from, in closed form: no shared space of the encoders, no label, no gradient, no exemplar.

Dimension letters: ``N`` clips, ``L`` slots, ``S`` patches of a slot, ``D`` visual channels, ``K`` numbers that tell of
the sound of a slot: loudness (K = 1), or an audio token by slot (`avcil.tokens.tokens.frame_audio`).
"""

from typing import NamedTuple

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
    # a view: the slots share their numbers
    return share.sqrt().float()[:, None].expand(-1, visual.shape[1], -1)


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
    # a tensor like the other sums, so that all four are added up in one way
    count = torch.tensor(float(len(a)), dtype=torch.float64)
    return ChangeSums(count, patches.T @ patches / visual.shape[2], a.T @ a, mean.T @ a)


def synchrony_form(sums: ChangeSums, damping: float) -> Tensor:
    """Which change of a patch goes with which change of the sound: F [D,K] of `synchrony`, float64.

        F = Σ_v⁻¹ C Σ_a⁻¹ / σ,   σ² = tr(F Σ_a Fᵀ Σ_v) before this division

    Σ_v, Σ_a and C are the covariances of ``sums``, with damping · tr(Σ)/dim added to the diagonals that are inverted;
    σ is the spread of the form where patch and sound have nothing to do with each other. C is estimated from the mean
    patch of each slot: silent patches do not co-vary with the sound, so they only scale it. Zeros where nothing ever
    changed.
    Source: ours.
    """
    # of no clip at all every sum is 0, and no mean NaN
    cov_v, cov_a, cross = (total / sums.slots.clamp(min=1) for total in sums[1:])
    inverse_v, inverse_a = (
        # pinv, for where nothing ever changed damping is 0 as well. By the mean variance, so that units do not matter
        torch.linalg.pinv(cov + damping * cov.trace() / len(cov) * torch.eye(len(cov), dtype=cov.dtype), hermitian=True)
        for cov in (cov_v, cov_a)
    )
    form = inverse_v @ cross @ inverse_a
    # tr(F Σ_a Fᵀ Σ_v) without its last product, since Σ_v is symmetric. What rounding leaves below 0 has no root
    spread = (form @ cov_a @ form.T * cov_v).sum().clamp(min=0).sqrt()
    return form / spread if spread else form.zero_()


def synchrony(visual: Tensor, sound: Tensor, form: Tensor) -> Tensor:
    """How well the change of each patch goes with that of the sound, m_ls = v̇_lsᵀ F ȧ_l.

    Were (v̇, ȧ) of the sounding patch jointly Gaussian, it would be the term of lowest order of log p(v̇ | ȧ) − log p(v̇).
    It serves objects that move, too, but wants encoders whose channels mean the same in all clips.

    Args:
        visual: [N,L,S,D]. sound: [N,L,K]. form: F [D,K] of `synchrony_form`.

    Returns the similarity [N,L,S], float32. Raises ValueError for other shapes.
    """
    check_slots(visual, sound)
    asked = (sound - sound.mean(1, keepdim=True)).float() @ form.T.float()
    # v̇ᵀq as vᵀq less that of the mean: no copy of the visual tokens
    still = torch.einsum("nsd,nld->nls", visual.mean(1), asked)
    found = torch.einsum("nlsd,nld->nls", visual, asked) - still
    # what rounding leaves of a picture that stands still is no change
    moves = found.abs().amax((1, 2), keepdim=True) > 1e-5 * still.abs().amax((1, 2), keepdim=True)
    return torch.where(moves, found, 0.0)
