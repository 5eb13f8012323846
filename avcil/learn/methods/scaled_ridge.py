"""Read-out: ridge regression that asks nothing of its encoders' units, with a penalty from its own sums. As `readout:
scaled_ridge`.

Dimension letters: ``N`` clips, ``A`` and ``V`` audio and visual channels, ``E`` = A + V, ``R`` directions in which the
clips differ, ``C`` classes seen so far.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from avcil.learn.attention import Features
from avcil.learn.heads import RecursiveRidge
from avcil.params.section import Section

# λ for one clip, whose streams are of variance 1: four to a decade
PENALTIES = 10.0 ** torch.arange(-6, 2.01, 0.25, dtype=torch.float64)


class Options(Section):
    pass


class Spectrum(NamedTuple):
    """X ᵀX = U diag(e) Uᵀ of centred regressors X [N,E]: ``values`` e [R] > 0, ``vectors`` U [E,R], and ``turned``
    UᵀXᵀY [R,C] of centred targets Y [N,C]."""

    values: Tensor
    vectors: Tensor
    turned: Tensor


def factor(gram: Tensor, rank: int, floor: float) -> Tensor:
    """L [E,R], R ≤ ``rank``, with L Lᵀ = G for a symmetric G ≥ 0 [E,E] of at most that rank, but for what is less than
    ``floor`` on the diagonal; float64, on the CPU. Takes O(E R²).

    Source: Cholesky with complete pivoting, as LAPACK's dpstrf (Hammarling, Higham & Lucas, LAPACK Working Note 161).
    """
    whole, pivots, found, _ = dpstrf(gram.numpy(), tol=floor, lower=True)
    # above the diagonal there is still G
    lower = torch.from_numpy(whole[:, : min(found, rank)]).tril()
    return torch.empty_like(lower).index_copy_(0, torch.from_numpy(pivots - 1).long(), lower)


def spectrum(gram: Tensor, cross: Tensor, clips: int, floor: float) -> Spectrum:
    """Of XᵀX [E,E] and XᵀY [E,C]; eigenvalues up to ``floor`` are rounding errors. At most clips − 1 are left."""
    # N centred clips differ in at most N − 1 directions
    rank = clips - 1
    if rank < len(gram) and not gram.is_cuda:
        # XᵀX = L Lᵀ has the eigenvalues of LᵀL, which is smaller; of u, an eigenvector of the latter, L u is one of XᵀX
        lower = factor(gram, rank, floor / len(gram))
        values, vectors = torch.linalg.eigh(lower.T @ lower)
        values, vectors = values[values > floor], lower @ (vectors[:, values > floor] * values[values > floor].rsqrt())
    else:
        values, vectors = torch.linalg.eigh(gram)
        # eigenvalues ascend: the last ones
        values, vectors = (part[..., max(0, len(gram) - rank) :] for part in (values, vectors))
        values, vectors = values[values > floor], vectors[:, values > floor]
    return Spectrum(values, vectors, vectors.T @ cross)


def gcv(modes: Spectrum, squares: Tensor, clips: int, penalties: Tensor) -> Tensor:
    """The score of generalised cross-validation of each of ``penalties``; lower is better.

        GCV(λ) = N ‖Y − H Y‖² / tr(I − H)²,   H = 11ᵀ/N + X (XᵀX + λI)⁻¹ Xᵀ
        ‖Y − H Y‖² = ‖Y‖² − Σ_r p_r²/e_r + Σ_r (λ/(e_r + λ))² p_r²/e_r
        tr(I − H)  = N − 1 − R + Σ_r λ/(e_r + λ)

    with X and Y centred, p_r² the squares of row r of ``turned`` summed over classes, and ``squares`` ‖Y‖². It is what
    leaving out each clip would err, with all clips' leverages replaced by their mean, so it needs sums alone.
    Source: Golub, Heath & Wahba, Technometrics 21 (1979), Eq. 1.4; the intercept, which is not penalised, takes one
    degree of freedom.
    """
    power = modes.turned.square().sum(1) / modes.values
    free = clips - 1 - len(modes.values)
    # where the clips can be fitted exactly, a difference of equals would be noise
    outside = (squares - power.sum()).clamp(min=0) if free else squares.new_zeros(())
    left = penalties[:, None] / (modes.values + penalties[:, None])
    degrees = free + left.sum(1)
    # of a single clip neither an error nor a degree of freedom is left: 0 over what float64 can still square
    return clips * (outside + left.square() @ power) / degrees.clamp(min=1e-100).square()


class Solution(NamedTuple):
    """weight [E+1,C] for streams as they come; ``scale`` [E] of what was solved, its spectrum, λ, and λ's score: of
    heads of the same clips the lower is the better."""

    weight: Tensor
    scale: Tensor
    modes: Spectrum
    penalty: float
    score: float


class ScaledRidge(RecursiveRidge):
    """Ridge regression onto one-hot labels over two streams of any scale and offset, with a penalty of its own choice;
    exact after every task without any old clip.

        x = [(a − ā)/σ_a, (v − v̄)/σ_v],   σ_a² = Σ_i ‖a_i − ā‖²/N,   σ_v² likewise
        W = (XᵀX + NλI)⁻¹ XᵀY,   score = Wᵀx + ȳ,   λ = argmin GCV

    with X and Y centred, λ among ``PENALTIES``; ``variances`` other than 1 weight the streams. All follows from the
    sums that `RecursiveRidge` keeps: neither scaling a stream nor adding a constant to it changes a prediction, and λ,
    unlike that of `RanPac`, does not depend on how clips are cut into tasks. A stream that never varies counts as
    absent.
    State: Σ xxᵀ and Σ xyᵀ of [a, v, 1], and the streams' widths. Solving takes O(E R²), of the R directions in which
    clips differ, fewer than N.
    Source: ridge as in `RecursiveRidge`; λ by generalised cross-validation (`gcv`); their union is ours.
    """

    variances: tuple[float, ...] | None = None
    """Of the streams once they are scaled; None: 1 each."""

    def __init__(self, state: dict[str, Tensor] | None = None):
        # λ is chosen when it is solved; nobody reads this penalty
        super().__init__(0.0, state)

    def streams(self, features: Features) -> tuple[Tensor, ...]:
        """What has a scale of its own, [N,its channels] each; the sound first, as heads are stored."""
        return features.audio.double(), features.visual.double()

    def expand(self, features: Features) -> Tensor:
        """[N,E+1]: the streams as they come and a 1, for what they are scaled by changes with every clip."""
        return F.pad(torch.cat(self.streams(features), 1), (0, 1), value=1.0)

    def update(self, features: Features, labels: Tensor, classes: int) -> None:
        super().update(features, labels, classes)
        # no sum, so set and not added; of no clip, since only widths are asked for
        self.state["channels"] = torch.tensor([stream.shape[1] for stream in self.streams(features.at(slice(0)))])

    def _solve(self) -> Any:
        gram, cross = self.state["gram"], self.state["cross"]
        # the 1 among the regressors has summed up the clips, their streams, and the clips of each class
        clips, sums, counts = gram[-1, -1], gram[-1, :-1], cross[-1]
        centred = gram[:-1, :-1] - sums.outer(sums) / clips
        sizes = self.state["channels"].tolist()
        spread = torch.stack([part.sum() / clips for part in centred.diagonal().split(sizes)])
        # the same about zero: a spread that is tiny beside it is rounding
        whole = torch.stack([part.sum() / clips for part in gram.diagonal()[:-1].split(sizes)])
        scale = torch.where(spread > 1e-12 * whole, spread.rsqrt(), 0.0)
        # a smaller variance under the one λ for all is a larger penalty on that stream
        if self.variances:
            scale = scale * scale.new_tensor(self.variances).sqrt()
        # rounding errors of the sums, in the units of what is solved
        floor = len(sums) * torch.finfo(gram.dtype).eps * float((whole * scale**2 * clips).sum())
        scale = scale.repeat_interleave(self.state["channels"])
        scaled = scale[:, None] * (cross[:-1] - sums.outer(counts) / clips)
        modes = spectrum(scale[:, None] * centred * scale, scaled, int(clips), floor)
        # one-hot targets: their squares sum to N
        squares = clips - counts.square().sum() / clips
        # sums grow with clips, and so must what is added to them
        penalties = clips * PENALTIES
        scores = gcv(modes, squares, int(clips), penalties)
        penalty = float(penalties[scores.argmin()])
        # weights of x, scaled once more: then they are of streams as they come
        weight = scale[:, None] * (modes.vectors @ (modes.turned / (modes.values + penalty)[:, None]))
        # the intercept, unpenalised: mean targets less what mean streams predict
        weight = torch.cat([weight, ((counts - sums @ weight) / clips)[None]])
        return Solution(weight, scale, modes, penalty, float(scores.min()))

    def leverage(self, features: Features) -> Tensor:
        """1/N + xᵀ(XᵀX + NλI)⁻¹x, [N], with x as it is solved: no factor on a stream changes it either."""
        return self._leverage(self.expand(features))

    def _leverage(self, regressors: Tensor) -> Tensor:
        _, scale, modes, penalty, _ = self.solution
        # the row of the 1: sums of the streams, and last the count of clips
        sums = self.state["gram"][-1]
        x = (regressors[:, :-1] - sums[:-1] / sums[-1]) * scale
        turned = x @ modes.vectors
        within = (turned.square() / (modes.values + penalty)).sum(1)
        # outside of all directions that were learnt the inverse is 1/(Nλ): there a clip is strangest
        # rounding may leave less than nothing of it
        beyond = (x.square().sum(1) - turned.square().sum(1)).clamp(min=0) / penalty
        return 1 / sums[-1] + within + beyond


def build(options: Options, state: dict[str, Tensor]) -> ScaledRidge:
    return ScaledRidge(state)
