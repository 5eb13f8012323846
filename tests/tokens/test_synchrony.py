"""Synchrony, the other estimator of guidance: against NumPy, and on clips where one patch sounds."""

import numpy as np
import torch
from test_guidance import D, K, L, N, S, scenes

from avcil.tokens.guidance import change_sums, synchrony_form
from avcil.tokens.guidance import synchrony as similarity_of


def synchrony(visual, sound, sums, damping=1.0):
    return similarity_of(visual, sound, synchrony_form(sums, damping))


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


def test_units_do_not_matter():
    visual, sound, _, _ = scenes()
    whole = change_sums(visual, sound)
    expected = synchrony(visual, sound, whole)
    scaled = synchrony(10 * visual - 4, sound / 8, change_sums(10 * visual - 4, sound / 8))
    torch.testing.assert_close(scaled, expected, atol=1e-4, rtol=1e-4)
    # the same form is of unit spread where patch and sound have nothing to do with each other
    assert 0.8 < synchrony(visual, sound.roll(1, 0), whole).std() < 1.2


def test_a_picture_that_stands_still_is_not_guided_by_rounding():
    visual, sound, _, _ = scenes()
    sums = change_sums(visual, sound)
    still = visual[:, :1].expand(-1, L, -1, -1).float() * 3.7
    assert (synchrony(still, sound.float(), sums) == 0).all()
    assert (synchrony(visual.float(), sound.float(), sums) != 0).any(-1).all()


def test_nothing_that_changes_is_no_guidance():
    visual, sound = torch.ones(3, L, S, D), torch.ones(3, L, K)
    assert (synchrony(visual, sound, change_sums(visual, sound)) == 0).all()
