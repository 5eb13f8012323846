"""Guidance in closed form: against NumPy, and on clips where it is known which patch sounds."""

import numpy as np
import pytest
import torch

from avcil.tokens.guidance import explained_change

N, L, S, D, K = 60, 8, 6, 5, 4


def scenes(seed=0, count=N):
    """Patches that change at random; one of each clip with its sound. Returns visual, sound, loudness, place."""
    generator = torch.Generator().manual_seed(seed)
    look = torch.randn(K, D, generator=torch.Generator().manual_seed(9))
    sound = torch.randn(count, L, K, generator=generator)
    loudness = torch.rand(count, L, generator=generator)
    visual = torch.randn(count, L, S, D, generator=generator)
    place = torch.randint(S, (count,), generator=generator)
    visual[torch.arange(count), :, place] += sound @ look
    # brighter or darker
    sign = torch.randn(count, D, generator=generator)
    visual[torch.arange(count), :, place] += 6 * loudness[..., None] * sign[:, None]
    return visual + 50, sound, loudness, place


def test_explained_change_is_the_r_squared_of_regressions_on_the_sound():
    visual, sound, _, _ = scenes()
    similarity = explained_change(visual, sound, components=K)
    assert similarity.shape == (N, L, S) and torch.equal(similarity[:, 0], similarity[:, -1])
    for clip, patch in ((0, 0), (7, 3), (59, 5)):
        x = np.c_[np.ones(L), sound[clip].numpy()].astype(float)
        y = visual[clip, :, patch].double().numpy()
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        expected = 1 - (left**2).sum() / ((y - y.mean(0)) ** 2).sum()
        assert float(similarity[clip, 0, patch]) ** 2 == pytest.approx(expected, abs=1e-5)


def test_explained_change_of_loudness_is_the_correlation_with_it_and_finds_the_patch():
    visual, _, loudness, place = scenes()
    similarity = explained_change(visual, loudness[..., None])
    single = explained_change(visual[..., :1], loudness[..., None])
    for clip, patch in ((0, 0), (7, 3)):
        expected = np.corrcoef(visual[clip, :, patch, 0].double(), loudness[clip].double())[0, 1]
        assert float(single[clip, 0, patch]) == pytest.approx(abs(expected), abs=1e-5)
    assert (similarity[:, 0].argmax(1) == place).double().mean() > 0.7
    other = explained_change(visual, loudness[..., None].roll(1, 0))
    assert (other[:, 0].argmax(1) == place).double().mean() < 0.45


def test_explained_change_does_not_ask_for_units_and_is_zero_without_change():
    visual, sound, loudness, _ = scenes()
    similarity = explained_change(visual, sound, 2)
    torch.testing.assert_close(explained_change(10 * visual + 3, -4 * sound + 7, 2), similarity, atol=1e-4, rtol=1e-4)
    still = visual.clone()
    still[0, :, 2] = torch.tensor(0.1)
    assert (explained_change(still, sound, 2)[0, :, 2] == 0).all()
    # a sound that does not change, or in fewer directions than are asked for; decibels are negative
    for level in (0.1, -0.1):
        assert (explained_change(visual, torch.full_like(loudness, level)[..., None]) == 0).all()
    torch.testing.assert_close(
        explained_change(visual, loudness[..., None].expand(-1, -1, 3), 3),
        explained_change(visual, loudness[..., None]),
    )
    assert similarity.min() >= 0 and similarity.max() <= 1


def test_other_shapes_are_one_line():
    visual, sound = torch.ones(3, L, S, D), torch.ones(3, L, K)
    with pytest.raises(ValueError, match=r"shape \(3, 8, 6, 5\) and \(3, 4, 4\); bring both to the same slots"):
        explained_change(visual, sound[:, :4])
    with pytest.raises(ValueError, match="bring both to the same slots"):
        explained_change(visual, sound[..., 0])
