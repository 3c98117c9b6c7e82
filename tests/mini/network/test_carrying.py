"""Objects that some frames show are carried to the others."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.mini.network.carrying import Course, carry, spots

SIDE = 64


def disc(x: float, y: float, radius: float, colour: float = 0.5) -> torch.Tensor:
    """Planes (4, H, W) of a disc; lengths in half frames."""
    at = torch.linspace(-1, 1, 2 * SIDE + 1)[1::2]
    apart = torch.hypot(at[None, :] - x, at[:, None] - y)
    alpha = ((radius - apart) * SIDE / 2 + 0.5).clamp(0, 1)
    return torch.stack([colour * alpha] * 3 + [alpha])


def course(
    place: list[tuple[float, float]], size: list[float] | None = None, angle: list[float] | None = None
) -> Course:
    count = len(place)
    return Course(torch.tensor([place]), torch.tensor([size or [0.0] * count]), torch.tensor([angle or [0.0] * count]))


def test_spots_measure_place_and_size() -> None:
    found = spots(disc(0.25, -0.5, 0.3)[None, None, 3])
    assert found.centre[0, 0].tolist() == pytest.approx([0.25, -0.5], abs=0.01)
    assert float(found.size) == pytest.approx(math.log(math.sqrt(math.pi) * 0.3 / 2), abs=0.02)
    assert bool(found.there)
    assert not bool(spots(torch.zeros(1, 1, 8, 8)).there)


def test_an_object_follows_its_course_from_the_frame_that_shows_it() -> None:
    planes = torch.zeros(1, 3, 4, SIDE, SIDE)
    planes[0, 1] = disc(-0.3, 0.2, 0.2)
    known = torch.tensor([[False, True, False]])
    path = course([(0.0, 0.0), (0.1, 0.0), (0.5, -0.2)], [0.0, 0.0, math.log(1.5)])
    carried, some = carry(planes, known, path)
    assert bool(some.all())
    assert torch.equal(carried[0, 1], planes[0, 1])
    torch.testing.assert_close(carried[0, 0], disc(-0.4, 0.2, 0.2), atol=0.35, rtol=0)
    for frame, expected in ((0, (-0.4, 0.2, 0.2)), (2, (0.1, 0.0, 0.3))):
        found, true = (spots(one[None, None, 3]) for one in (carried[0, frame], disc(*expected)))
        assert found.centre[0, 0].tolist() == pytest.approx(true.centre[0, 0].tolist(), abs=0.02)
        assert float(found.size) == pytest.approx(float(true.size), abs=0.03)


def test_a_turn_is_clockwise() -> None:
    planes = torch.zeros(1, 2, 4, SIDE, SIDE)
    planes[0, 0, :, 24:40, 32:60] = 1.0  # a bar from the middle to the right ...
    planes[0, 0, :, 28:36, 4:32] = 1.0  # ... that is thinner on the left
    known = torch.tensor([[True, False]])
    carried, _ = carry(planes, known, course([(0.0, 0.0)] * 2, angle=[0.0, math.pi / 2]))
    widths = carried[0, 1, 3].sum(1)
    widths = widths[widths > 1]
    assert float(widths[-5]) > 1.5 * float(widths[4])  # the thick part points down


def test_a_turn_in_a_wide_frame_keeps_the_shape() -> None:
    planes = torch.zeros(1, 2, 4, SIDE, 2 * SIDE)
    planes[0, 0, :, 30:34, 44:84] = 1.0  # 40 pixels wide, 4 high
    known = torch.tensor([[True, False]])
    carried, _ = carry(planes, known, course([(0.0, 0.0)] * 2, angle=[0.0, math.pi / 2]))
    rows, columns = (carried[0, 1, 3] > 0.5).nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == pytest.approx(40, abs=2)
    assert int(columns.max() - columns.min()) + 1 == pytest.approx(4, abs=2)


def test_between_two_frames_it_arrives_at_the_second() -> None:
    planes = torch.zeros(1, 5, 4, SIDE, SIDE)
    planes[0, 0], planes[0, 4] = disc(-0.5, 0.0, 0.2, 0.0), disc(0.5, 0.0, 0.2, 1.0)
    known = torch.tensor([[True, False, False, False, True]])
    # The course tells less than half of the way; the rest is spread.
    carried, _ = carry(planes, known, course([(0.1 * n, 0.0) for n in range(5)]))
    centres = spots(carried[:, :, 3]).centre[0, :, 0]
    torch.testing.assert_close(centres, torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5]), atol=0.02, rtol=0)
    middle = carried[0, 2, 0, SIDE // 2, SIDE // 2]
    assert float(middle) == pytest.approx(0.5, abs=0.05)  # halfway from one look to the other
    assert torch.equal(carried[0, 4], planes[0, 4])


def test_an_empty_frame_shows_nothing_to_carry() -> None:
    planes = torch.zeros(2, 3, 4, SIDE, SIDE)
    planes[1, 0] = disc(0.0, 0.0, 0.3)
    known = torch.tensor([[True, False, False], [True, False, True]])
    still = Course(torch.zeros(2, 3, 2), torch.zeros(2, 3), torch.zeros(2, 3))
    carried, some = carry(planes, known, still)
    assert some.tolist() == [False, True]
    assert not bool(carried[0].any())
    assert not bool(carried[1, 2].any())  # a known frame stays as it is, be it empty
    assert bool(carried[1, 1].any())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_known_frames_come_back_exactly(known: list[bool], x: float, y: float) -> None:
    planes = torch.stack([disc(x + 0.05 * n, y, 0.25, 0.1 * n) for n in range(4)])[None]
    carried, _ = carry(planes, torch.tensor([known]), course([(0.05 * n, 0.0) for n in range(4)]))
    assert torch.equal(carried[0, known], planes[0, known])
    # Where the course is right, so are the others.
    torch.testing.assert_close(spots(carried[:, :, 3]).centre, spots(planes[:, :, 3]).centre, atol=0.02, rtol=0)
