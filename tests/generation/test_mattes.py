"""Mattes that the bundled model makes of clicks."""

import torch

from layerflow.generation.mattes import connected


def matte() -> torch.Tensor:
    """Return two soft squares (3, 1, 12, 12), of which the first moves."""
    alpha = torch.zeros(3, 1, 12, 12)
    for frame in range(3):
        alpha[frame, 0, 1:4, 1 + frame : 4 + frame] = 1
    alpha[:, 0, 8:11, 8:11] = 0.8
    alpha[:, 0, 7, 8:11] = 0.05
    return alpha


def seeds(row: int, column: int) -> torch.Tensor:
    clicked = torch.zeros(3, 1, 12, 12, dtype=torch.bool)
    clicked[0, 0, row, column] = True
    return clicked


def test_what_hangs_together_with_a_click_stays_in_all_frames() -> None:
    one = matte() * connected(matte(), seeds(2, 2))
    assert torch.equal(one[..., :6, :], matte()[..., :6, :])
    assert not one[..., 6:, :].any()
    other = matte() * connected(matte(), seeds(9, 9))
    assert not other[..., :6, :].any()
    assert torch.equal(other[..., 6:, :], matte()[..., 6:, :])


def test_a_click_beside_the_matte_changes_nothing() -> None:
    assert torch.equal(connected(matte(), seeds(5, 5)), torch.ones(3, 1, 12, 12))
