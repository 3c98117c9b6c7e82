"""Alpha arithmetic: blending and its inverses, colour beyond the edge, and one place that divides by alpha."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import layerflow
from layerflow.core.compositing import (
    blend,
    blend_all,
    extend_colour,
    flatten,
    premultiply_all,
    pull_push,
    uncompose,
    unpremultiply,
)
from layerflow.core.layered_video import LayeredVideo

sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**31 - 1)
floors = st.floats(1e-6, 1)
quick = settings(max_examples=40, deadline=None)


def random_layers(size, seed):
    """Foreground, alpha with many exact zeros and ones, and background."""
    frames, height, width = size
    generator = torch.Generator().manual_seed(seed)
    foreground, background = (torch.rand(frames, 3, height, width, generator=generator) for _ in range(2))
    alpha = (torch.rand(frames, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    return foreground, alpha, background


# Blending


@quick
@given(size=sizes, seed=seeds)
def test_blend_is_exact_where_alpha_is_0_or_1(size, seed):
    foreground, alpha, background = random_layers(size, seed)
    blended = blend(foreground, alpha, background)
    opaque, transparent = ((alpha == end).expand_as(blended) for end in (1, 0))
    assert torch.equal(blended[opaque], foreground[opaque])
    assert torch.equal(blended[transparent], background[transparent])


@quick
@given(size=sizes, seed=seeds)
def test_uncompose_inverts_blend(size, seed):
    foreground, alpha, background = random_layers(size, seed)
    blended = blend(foreground, alpha, background)
    back = uncompose(blended, alpha, background)
    assert back.dtype == torch.float32
    torch.testing.assert_close(blend(back, alpha, background), blended, rtol=0, atol=1e-6)
    seen = (alpha > 0.1).expand_as(back)
    torch.testing.assert_close(back[seen], foreground[seen], rtol=0, atol=2e-6)
    assert back[(alpha == 0).expand_as(back)].abs().sum() == 0


# Several foregrounds


@quick
@given(size=sizes, seed=seeds, count=st.integers(1, 4))
def test_blend_all_is_blend_from_far_to_near(size, seed, count):
    *foregrounds, background = [random_layers(size, seed + index)[:2] for index in range(count + 1)]
    expected = background[0]
    for colour, alpha in reversed(foregrounds):
        expected = blend(colour, alpha, expected)
    torch.testing.assert_close(blend_all(foregrounds, background[0]), expected, rtol=0, atol=1e-6)
    assert torch.equal(blend_all([], background[0]), background[0])


@quick
@given(size=sizes, seed=seeds, count=st.integers(2, 4), cut=st.integers(1, 3))
def test_merging_is_associative(size, seed, count, cut):
    foregrounds = [random_layers(size, seed + index)[:2] for index in range(count)]
    near, far = foregrounds[: min(cut, count - 1)], foregrounds[min(cut, count - 1) :]
    whole, parts = premultiply_all(foregrounds), premultiply_all([flatten(near), flatten(far)])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@quick
@given(size=sizes, seed=seeds, count=st.integers(1, 4))
def test_flatten_gives_the_premultiplied_stack(size, seed, count):
    foregrounds = [random_layers(size, seed + index)[:2] for index in range(count)]
    colour, alpha = flatten(foregrounds)
    premultiplied, coverage = premultiply_all(foregrounds)
    assert torch.equal(alpha == 0, coverage == 0)
    torch.testing.assert_close(alpha, coverage, rtol=0, atol=1e-6)
    torch.testing.assert_close(colour * alpha, premultiplied, rtol=0, atol=1e-6)
    assert colour[(alpha == 0).expand_as(colour)].abs().sum() == 0


# Dividing by alpha


@quick
@given(size=sizes, seed=seeds)
def test_unpremultiply_inverts_premultiplying(size, seed):
    foreground, alpha, _ = random_layers(size, seed)
    straight = unpremultiply(foreground * alpha, alpha)
    seen = (alpha > 0).expand_as(foreground)
    torch.testing.assert_close(straight[seen], foreground[seen], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(straight * alpha, foreground * alpha, rtol=0, atol=1e-6)
    assert straight[~seen].abs().sum() == 0


@quick
@given(size=sizes, seed=seeds, floor=floors)
def test_a_floor_changes_only_what_lies_below_it(size, seed, floor):
    foreground, alpha, _ = random_layers(size, seed)
    premultiplied = (2 * foreground - 1) * alpha  # model space: negative values must survive
    straight = unpremultiply(premultiplied, alpha, floor=floor, limits=None)
    kept = (alpha >= floor).expand_as(foreground) & (alpha > 0)
    assert torch.equal(straight[kept], unpremultiply(premultiplied, alpha, limits=None)[kept])
    assert torch.equal(straight[~kept], (premultiplied / torch.tensor(floor))[~kept])
    assert straight.abs().max() <= 1 + 1e-6


def test_limits_hold_colour_that_exceeds_alpha():
    colour, alpha = torch.ones(1, 3, 1, 1), torch.full((1, 1, 1, 1), 0.25)
    assert unpremultiply(colour, alpha).max() == 1
    assert unpremultiply(colour, alpha, limits=None).max() == 4
    assert unpremultiply(-colour, alpha, limits=(-1, 1)).min() == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_unpremultiply_keeps_the_dtype(dtype, floor):
    assert unpremultiply(torch.ones(1, 3, 2, 2, dtype=dtype), torch.ones(1, 1, 2, 2, dtype=dtype), floor).dtype == dtype


# Colour beyond the edge


@quick
@given(size=sizes, seed=seeds, threshold=st.floats(0.01, 1))
def test_extend_colour_keeps_what_is_known(size, seed, threshold):
    foreground, alpha, _ = random_layers(size, seed)
    extended = extend_colour(foreground, alpha, threshold)
    known = (alpha >= threshold).expand_as(extended)
    assert torch.equal(extended[known], foreground[known])
    assert extended.min() >= 0
    assert extended.max() <= 1


def test_extend_colour_carries_colour_over_the_whole_frame():
    colour = torch.zeros(2, 3, 7, 12)
    alpha = torch.zeros(2, 1, 7, 12)
    colour[0, :, 3:5, 4:6] = torch.tensor([0.8, 0.2, 0.4]).view(3, 1, 1)
    alpha[0, :, 3:5, 4:6] = 1
    extended = extend_colour(colour, alpha)
    want = torch.tensor([0.8, 0.2, 0.4]).view(3, 1, 1).expand(3, 7, 12)
    torch.testing.assert_close(extended[0], want)
    assert torch.equal(extended[1], colour[1])  # nothing known in this frame: it stays
    with pytest.raises(ValueError, match="threshold is 0"):
        extend_colour(colour, alpha, 0)
    filled = LayeredVideo.from_premultiplied(colour * alpha, alpha, extend_below=0.05)
    torch.testing.assert_close(filled.foreground[0], want)


def test_pull_push_keeps_a_constant_of_any_range():
    weight = torch.zeros(1, 1, 5, 7)
    weight[..., 2, 3] = 1
    torch.testing.assert_close(pull_push(-3 * weight, weight), torch.full((1, 1, 5, 7), -3.0))


# One place

HOLDING = {"clamp", "clamp_min", "clip", "maximum", "max", "where", "double", "float", "unsqueeze", "view", "to"}
"""Calls through which a divisor is still alpha pixel by pixel; a sum or a mean of alpha is another quantity."""


def is_alpha(node):
    """Return whether an expression is alpha, clamped, converted or indexed."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
            return name == "alpha" or name.endswith("_alpha")
        case ast.Subscript(value=value, slice=index):
            return is_alpha(value) or is_alpha(index)
        case ast.BinOp(left=left, right=right):
            return is_alpha(left) or is_alpha(right)
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=args) if name in HOLDING:
            return is_alpha(value) or any(map(is_alpha, args))
        case ast.Call(func=ast.Name(id=name), args=args) if name in HOLDING:
            return any(map(is_alpha, args))
    return False


def divisions_by_alpha(source):
    """Return the lines of Python source that divide by alpha."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(op=ast.Div(), right=divisor) | ast.AugAssign(op=ast.Div(), value=divisor):
                divisors = [divisor]
            case ast.Call(func=ast.Attribute(attr="div" | "div_" | "divide" | "true_divide"), args=args):
                divisors = args[-1:] if len(args) < 2 else args[1:2]
            case ast.Call(func=ast.Attribute(value=value, attr="reciprocal"), args=args):
                divisors = [value, *args]
            case _:
                continue
        if any(map(is_alpha, divisors)):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    [
        "colour / alpha",
        "colour / video.alpha.clamp(min=0.1)",
        "colour / np.maximum(alpha, 1 / 255)",
        "colour / (alpha + 1e-6)",
        "colour / clips['alpha']",
        "colour / alpha[..., None]",
        "colour / torch.where(alpha > 0, alpha, 1)",
        "colour /= alpha",
        "torch.div(colour, alpha)",
        "colour.div(alpha)",
        "alpha.reciprocal()",
    ],
)
def test_the_scan_finds_a_division_by_alpha(line):
    assert divisions_by_alpha(line) == [1]


@pytest.mark.parametrize(
    "line", ["alpha / 2", "x / alpha.sum()", "x / alphas_cumprod", "alpha / alpha.mean()", "x // 2"]
)
def test_the_scan_lets_other_divisions_pass(line):
    assert divisions_by_alpha(line) == []


def test_only_compositing_divides_by_alpha():
    root = Path(layerflow.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    repository = Path(__file__).parents[2]
    files |= {str(path.relative_to(repository)): path for path in sorted((repository / "integrations").rglob("*.py"))}
    found = {name: lines for name, path in files.items() if (lines := divisions_by_alpha(path.read_text("utf-8")))}
    assert list(found) == ["core/compositing.py"], f"call layerflow.core.compositing.unpremultiply: {found}"
