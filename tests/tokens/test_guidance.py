"""Guidance in closed form: against NumPy, and on clips where it is known which patch sounds."""

import numpy as np
import pytest
import torch

from avcil.tokens.guidance import change_sums, explained_change, synchrony

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
    # a sound that does not change, or in fewer directions than are asked for
    assert (explained_change(visual, torch.full_like(loudness, 0.1)[..., None]) == 0).all()
    torch.testing.assert_close(
        explained_change(visual, loudness[..., None].expand(-1, -1, 3), 3),
        explained_change(visual, loudness[..., None]),
    )
    assert similarity.min() >= 0 and similarity.max() <= 1


def test_synchrony_finds_the_patch_whose_change_the_sound_tells():
    visual, sound, _, place = scenes()
    sums = change_sums(visual, sound)
    new, heard, _, there = scenes(seed=1)
    for clips, voice, truth in ((visual, sound, place), (new, heard, there)):
        similarity = synchrony(clips, voice, sums, damping=0.1)
        assert similarity.shape == (N, L, S)
        assert (similarity.mean(1).argmax(1) == truth).double().mean() > 0.8
        others = synchrony(clips, voice.roll(1, 0), sums, damping=0.1)
        assert (others.mean(1).argmax(1) == truth).double().mean() < 0.45


def test_synchrony_is_the_whitened_form_in_numpy():
    visual, sound, _, _ = (x.double().numpy() for x in scenes())
    v, a = visual - visual.mean(1, keepdims=True), sound - sound.mean(1, keepdims=True)
    flat, heard = v.reshape(-1, D), a.reshape(-1, K)
    cov_v, cov_a = flat.T @ flat / len(flat), heard.T @ heard / len(heard)
    cross = v.mean(2).reshape(-1, D).T @ heard / len(heard)
    damped = [c + 0.3 * np.trace(c) / len(c) * np.eye(len(c)) for c in (cov_v, cov_a)]
    form = np.linalg.inv(damped[0]) @ cross @ np.linalg.inv(damped[1])
    expected = np.einsum("nlsd,da,nla->nls", v, form, a) / np.sqrt(np.trace(form @ cov_a @ form.T @ cov_v))
    visual, sound, _, _ = scenes()
    np.testing.assert_allclose(synchrony(visual, sound, change_sums(visual, sound), 0.3), expected, atol=1e-4)


def test_sums_over_clips_add_up_in_any_parts_and_units_do_not_matter():
    visual, sound, _, _ = scenes()
    whole = change_sums(visual, sound)
    parts = change_sums(visual[40:], sound[40:]).plus(change_sums(visual[:40], sound[:40]))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, parts, strict=True))
    expected = synchrony(visual, sound, whole)
    scaled = synchrony(10 * visual - 4, sound / 8, change_sums(10 * visual - 4, sound / 8))
    torch.testing.assert_close(scaled, expected, atol=1e-4, rtol=1e-4)
    # the same form is of unit spread where patch and sound have nothing to do with each other
    assert 0.8 < synchrony(visual, sound.roll(1, 0), whole).std() < 1.2


def test_nothing_that_changes_is_no_guidance_and_other_shapes_are_one_line():
    visual, sound = torch.ones(3, L, S, D), torch.ones(3, L, K)
    assert (synchrony(visual, sound, change_sums(visual, sound)) == 0).all()
    for function in (explained_change, change_sums):
        with pytest.raises(ValueError, match=r"shape \(3, 8, 6, 5\) and \(3, 4, 4\); bring both to the same slots"):
            function(visual, sound[:, :4])
        with pytest.raises(ValueError, match="bring both to the same slots"):
            function(visual, sound[..., 0])
