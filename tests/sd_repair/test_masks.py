"""Masks made from seeds, and their maximum over latents; needs no extra packages."""

from __future__ import annotations

import numpy as np
import pytest

from amco_jax.errors import InputError
from sd_repair.masks import MASKS, make_mask, pool


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("side", [16, 64, 250])
def test_masks_have_a_hole_and_known_pixels(name, side):
    for seed in range(5):
        mask = make_mask(name, side, seed)
        assert mask.shape == (side, side)
        assert mask.dtype == bool
        assert 0 < mask.mean() < 0.7


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_a_function_of_its_seed(name):
    np.testing.assert_array_equal(make_mask(name, 64, 3), make_mask(name, 64, 3))
    assert not np.array_equal(make_mask(name, 64, 3), make_mask(name, 64, 4))


def test_thin_strokes_are_thin_and_thick_ones_thick():
    def largest_square(mask):
        """Side of the largest square inside the hole, by dynamic programming."""
        best = mask.astype(int)
        for row in range(1, len(mask)):
            for column in range(1, len(mask)):
                if mask[row, column]:
                    best[row, column] += min(
                        best[row - 1, column], best[row, column - 1], best[row - 1, column - 1]
                    )
        return best.max()

    # At a side of 256 pens are half as wide as at 512; where thin strokes cross, a little more is hole.
    assert largest_square(make_mask("thin", 256)) <= 5
    assert largest_square(make_mask("thick", 256)) >= 5


def test_pool_loses_no_pixel():
    for name in MASKS:
        mask = make_mask(name, 128, 1)
        pooled = pool(mask, 8)
        assert pooled.shape == (16, 16)
        assert not (mask & ~np.kron(pooled, np.ones((8, 8), bool))).any()
    one = np.zeros((16, 16), bool)
    one[0, 15] = True
    np.testing.assert_array_equal(pool(one, 8), [[False, True], [False, False]])


def test_the_nearest_pixel_would_lose_a_thin_stroke():
    stroke = np.zeros((512, 512), bool)
    stroke[101] = True
    assert not stroke[::8, ::8].any()
    assert pool(stroke, 8).sum() == 64


@pytest.mark.parametrize(
    ("name", "side", "seed", "words"),
    [
        ("dots", 64, 0, "mask: 'dots'"),
        ("thin", 8, 0, "size: 8"),
        ("box", 64, -1, "seed: -1"),
        ("box", 1.5, 0, "size: 1.5"),
    ],
)
def test_bad_input_is_refused(name, side, seed, words):
    with pytest.raises(InputError, match=words):
        make_mask(name, side, seed)
