"""The layered video: what it accepts, and the algebra of straight and premultiplied layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.core.layered_video import Foreground, LayeredVideo
from layerflow.core.schema import ALL_CLIPS, BLENDED, CHANNELS, CLIPS, clip_names, scene_layers

sizes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=40, deadline=None)


counts = st.integers(1, 4)


def random_scene(foregrounds=2, size=(2, 4, 6), seed=0) -> LayeredVideo:
    """Return a scene of several foregrounds without blended; their alphas have many exact zeros and ones."""
    frames, height, width = size
    generator = torch.Generator().manual_seed(seed)
    clips = {
        name: torch.rand(frames, CHANNELS[name], height, width, generator=generator)
        for name in clip_names(scene_layers(foregrounds))
        if name != BLENDED
    }
    return LayeredVideo.from_clips({n: (2 * c - 0.5).clamp(0, 1) if CHANNELS[n] == 1 else c for n, c in clips.items()})


def random_video(size=(2, 4, 6), seed=0, blended=True) -> LayeredVideo:
    """Return random clips whose alpha has many exact zeros and ones."""
    frames, height, width = size
    generator = torch.Generator().manual_seed(seed)
    colour = [torch.rand(frames, 3, height, width, generator=generator) for _ in range(2)]
    alpha = (torch.rand(frames, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    video = LayeredVideo(foreground=colour[0], alpha=alpha, background=colour[1])
    return video.compose() if blended else video


# What it accepts


def test_holds_any_subset_of_clips():
    video = random_video()
    assert list(video.clips()) == list(CLIPS)
    for name, clip in video.clips().items():
        alone = LayeredVideo(**{name: clip})
        assert list(alone.clips()) == [name]
        assert (alone.frames, alone.height, alone.width, alone.fps) == (2, 4, 6, 8.0)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({}, "at least one clip"),
        ({"alpha": torch.rand(2, 3, 4, 4)}, r"alpha has shape \(2, 3, 4, 4\).*1, height"),
        ({"foreground": torch.rand(3, 4, 4)}, r"foreground has shape \(3, 4, 4\)"),
        ({"foreground": torch.rand(0, 3, 4, 4)}, "at least one frame"),
        ({"background": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "torch.uint8.*divide by 255"),
        ({"background": torch.zeros(1, 3, 4, 4).half()}, "torch.float16.*float"),
        ({"blended": torch.full((1, 3, 2, 2), float("nan"))}, "blended.*not finite"),
        ({"blended": torch.full((1, 3, 2, 2), float("inf"))}, "blended.*not finite"),
        ({"blended": torch.full((1, 3, 2, 2), 1.5)}, r"blended spans \[1.5, 1.5\].*\[0, 1\]"),
        ({"alpha": torch.full((1, 1, 2, 2), -0.1)}, r"alpha spans"),
        ({"alpha": [[1.0]]}, "alpha is a list"),
        ({"alpha": torch.ones(2, 1, 4, 4), "background": torch.ones(3, 3, 4, 4)}, "frames 3 but alpha has 2"),
        ({"alpha": torch.ones(2, 1, 4, 4), "background": torch.ones(2, 3, 4, 5)}, "width 5.*resize"),
        ({"alpha": torch.ones(2, 1, 4, 4), "background": torch.ones(2, 3, 6, 4)}, "height 6"),
        ({"alpha": torch.ones(2, 1, 4, 4), "fps": 0}, "fps is 0"),
        ({"alpha": torch.ones(2, 1, 4, 4), "fps": float("nan")}, "fps is nan"),
    ],
)
def test_refuses_with_a_clear_message(clips, message):
    with pytest.raises(ValueError, match=message):
        LayeredVideo(**clips)


def test_cannot_be_changed_only_replaced():
    video = random_video()
    with pytest.raises(AttributeError):
        video.fps = 24
    assert video.replace(fps=24).fps == 24
    assert "alpha" not in video.replace(alpha=None).clips()
    with pytest.raises(ValueError, match="alpha has frames 1"):
        video.replace(alpha=video.alpha[:1])


def test_equality_is_by_content():
    assert random_video(seed=3) == random_video(seed=3)
    assert random_video(seed=3) != random_video(seed=4)
    assert random_video() != random_video(blended=False)
    assert random_video() != random_video().replace(fps=9)
    assert random_video() != "video"
    with pytest.raises(TypeError):
        hash(random_video())
    assert repr(random_video()) == ("LayeredVideo(foreground, alpha, background, blended: 2 frames, 4x6, 8 fps)")


# Composition


@quick
@given(size=sizes, seed=seeds)
def test_compose_is_exact_where_alpha_is_zero_or_one(size, seed):
    video = random_video(size, seed)
    alpha = video.alpha.expand_as(video.foreground)
    assert torch.equal(video.blended[alpha == 1], video.foreground[alpha == 1])
    assert torch.equal(video.blended[alpha == 0], video.background[alpha == 0])
    assert video.blended.min() >= 0
    assert video.blended.max() <= 1


def test_compose_names_the_missing_clip():
    video = random_video().replace(background=None)
    with pytest.raises(ValueError, match=r"compose\(\) needs background, but background is missing"):
        video.compose()
    with pytest.raises(ValueError, match=r"over\(\) needs foreground and alpha, but alpha is missing"):
        video.replace(alpha=None).over((0, 0, 0))


def test_over_takes_a_clip_a_still_or_a_colour():
    video = random_video()
    assert torch.equal(video.over(video.background), video.blended)
    colour = torch.tensor([0.2, 0.4, 0.6])
    by_colour = video.over((0.2, 0.4, 0.6))
    assert torch.equal(by_colour, video.over(colour.view(1, 3, 1, 1).expand(1, 3, 4, 6)))
    assert torch.equal(by_colour, video.over(colour))
    for wrong in (torch.rand(5, 3, 4, 6), torch.rand(1, 1, 4, 6), torch.rand(4), torch.rand(3, 4, 6)):
        with pytest.raises(ValueError, match="background has shape"):
            video.over(wrong)
    with pytest.raises(ValueError, match="background spans"):
        video.over((0, 0, 255))


@quick
@given(size=sizes, seed=seeds)
def test_premultiply_round_trip(size, seed):
    video = random_video(size, seed, blended=False)
    back = LayeredVideo.from_premultiplied(
        video.premultiplied(), video.alpha, background=video.background, fps=video.fps
    )
    seen = (video.alpha > 0).expand_as(video.foreground)
    torch.testing.assert_close(back.foreground[seen], video.foreground[seen], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(back.premultiplied(), video.premultiplied(), rtol=0, atol=1e-6)
    assert back.foreground[~seen].abs().sum() == 0


# Edges


@quick
@given(size=sizes, seed=seeds, height=st.integers(1, 12), width=st.integers(1, 12))
def test_resize_keeps_range_and_flat_alpha(size, seed, height, width):
    video = random_video(size, seed)
    resized = video.resize(height, width)  # construction checks the range
    assert (resized.frames, resized.height, resized.width) == (video.frames, height, width)
    for value in (0.0, 1.0):
        flat = video.replace(alpha=torch.full_like(video.alpha, value)).resize(height, width)
        assert bool((flat.alpha == value).all())


def test_resize_does_not_darken_edges():
    alpha = torch.zeros(1, 1, 16, 16)
    alpha[..., 5:11, 5:11] = 1
    bright = torch.full((1, 3, 16, 16), 0.9) * alpha  # black where it is not seen
    for size in (5, 16, 37):
        resized = LayeredVideo(foreground=bright, alpha=alpha).resize(size, size)
        seen = (resized.alpha > 1e-3).expand_as(resized.foreground)
        torch.testing.assert_close(resized.foreground[seen], torch.full_like(resized.foreground[seen], 0.9))
    with pytest.raises(ValueError, match="cannot resize to 0x4"):
        LayeredVideo(alpha=alpha).resize(0, 4)


# Selection


def test_slices_choose_frames():
    video = random_video((6, 3, 3))
    assert video[1:3].frames == 2
    assert torch.equal(video[-1].alpha, video.alpha[5:])
    assert video[::2].fps == 4
    assert torch.equal(video[::-1].blended, video.blended.flip(0))
    assert video[::-1].fps == 8
    with pytest.raises(ValueError, match="selects none"):
        video[6:]
    with pytest.raises(IndexError, match="frame 6"):
        video[6]
    assert [one.frames for one in video] == [1] * 6


def test_crop_is_a_window():
    video = random_video((1, 5, 6))
    assert torch.equal(video.crop(1, 2, 3, 4).background, video.background[..., 1:4, 2:6])
    with pytest.raises(ValueError, match="does not lie within"):
        video.crop(3, 0, 3, 4)


# Several foregrounds


def test_foregrounds_are_numbered_from_near_to_far():
    video = random_scene(3).compose()
    assert list(video.clips()) == [
        *("foreground", "alpha", "foreground-2", "alpha-2", "foreground-3", "alpha-3"),
        *("background", "blended"),
    ]
    nearest, second, _ = video.foregrounds
    assert nearest == Foreground(video.foreground, video.alpha)
    assert video.behind == video.foregrounds[1:]
    assert torch.equal(video.clips()["alpha-2"], second.alpha)
    assert repr(video[0]) == (
        "LayeredVideo(foreground, alpha, foreground-2, alpha-2, foreground-3, alpha-3, background, blended: "
        "1 frames, 4x6, 8 fps)"
    )


def test_one_foreground_or_none():
    video = random_video()
    assert video.behind == ()
    assert video.foregrounds == (Foreground(video.foreground, video.alpha),)
    assert LayeredVideo(background=video.background).foregrounds == ()


@quick
@given(names=st.sets(st.sampled_from(ALL_CLIPS), min_size=1), seed=seeds)
def test_from_clips_inverts_clips_for_any_subset(names, seed):
    clips = {name: torch.rand(1, CHANNELS[name], 2, 3) for name in names}
    video = LayeredVideo.from_clips(clips, fps=5)
    assert list(video.clips()) == [name for name in ALL_CLIPS if name in names]
    assert all(video.clips()[name] is clip for name, clip in clips.items())
    assert video.fps == 5
    assert LayeredVideo.from_clips(video.clips(), fps=5) == video


def test_a_missing_foreground_keeps_its_place():
    alone = LayeredVideo.from_clips({"alpha-3": torch.ones(1, 1, 2, 2)})
    assert alone.foregrounds[:2] == (Foreground(), Foreground())
    assert alone == LayeredVideo(behind=(Foreground(), Foreground(alpha=torch.ones(1, 1, 2, 2)), Foreground()))
    with pytest.raises(ValueError, match=r"needs foreground and alpha and .*foreground-3 is missing"):
        alone.over((0, 0, 0))


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"alpha-2": torch.rand(1, 3, 4, 4)}, r"alpha-2 has shape \(1, 3, 4, 4\)"),
        ({"foreground-2": torch.rand(1, 3, 4, 4) + 1}, "foreground-2 spans"),
        ({"alpha": torch.ones(2, 1, 4, 4), "foreground-3": torch.ones(1, 3, 4, 4)}, "foreground-3 has frames 1"),
        ({"foreground-9": torch.ones(1, 3, 4, 4)}, "'foreground-9' is not known.*up to 8"),
        ({"matte": torch.ones(1, 3, 4, 4)}, "'matte' is not known"),
        ({"alpha": None}, "at least one clip"),
    ],
)
def test_from_clips_names_the_wrong_clip(clips, message):
    with pytest.raises(ValueError, match=message):
        LayeredVideo.from_clips(clips)


def test_behind_takes_foregrounds_up_to_the_limit():
    one = Foreground(torch.rand(1, 3, 2, 2), torch.rand(1, 1, 2, 2))
    assert len(LayeredVideo(one.colour, one.alpha, behind=(one,) * 7).foregrounds) == 8
    with pytest.raises(ValueError, match=r"there are 9 foregrounds.*at most 8"):
        LayeredVideo(one.colour, one.alpha, behind=(one,) * 8)
    with pytest.raises(ValueError, match="foreground 2 is a Tensor"):
        LayeredVideo(one.colour, one.alpha, behind=(one.colour,))


def test_replace_takes_clips_of_any_foreground():
    video = random_scene(3)
    alpha = torch.rand_like(video.alpha)
    changed = video.replace(**{"alpha-2": alpha, "foreground-3": None}, fps=3)
    assert changed.behind[0] == Foreground(video.behind[0].colour, alpha)
    assert list(changed.clips()) == [name for name in video.clips() if name != "foreground-3"]
    assert changed.fps == 3
    assert video.replace(behind=()) == LayeredVideo(video.foreground, video.alpha, video.background)
    assert video.replace(behind=video.behind[:1]).foregrounds == video.foregrounds[:2]
    with pytest.raises(ValueError, match="'matte' is not known"):
        video.replace(matte=alpha)


def test_foregrounds_are_reordered_by_replace():
    video = random_scene(3)
    turned = video.replace(foregrounds=video.foregrounds[::-1])
    assert torch.equal(turned.alpha, video.clips()["alpha-3"])
    assert torch.equal(turned.clips()["foreground-3"], video.foreground)
    assert turned.replace(foregrounds=turned.foregrounds[::-1]) == video
    assert turned.compose() != video.compose()
    assert list(video.replace(foregrounds=()).clips()) == ["background"]
    assert video.replace(foregrounds=video.foregrounds[1:]).behind == video.behind[1:]


def test_equality_sees_every_clip():
    assert random_scene(3) == random_scene(3)
    for name, clip in random_scene(3).clips().items():
        assert random_scene(3) != random_scene(3).replace(**{name: 1 - clip})
        assert random_scene(3) != random_scene(3).replace(**{name: None})


@quick
@given(count=counts, size=sizes, seed=seeds)
def test_compose_folds_from_the_farthest(count, size, seed):
    video = random_scene(count, size, seed)
    behind = video.background
    for one in reversed(video.foregrounds):
        behind = LayeredVideo(one.colour, one.alpha, behind).compose().blended
    assert torch.equal(video.compose().blended, behind)
    assert torch.equal(video.over(video.background), behind)
    assert video.with_blended() == video.compose()


@quick
@given(count=counts, size=sizes, seed=seeds)
def test_compose_shows_the_nearest_opaque_layer(count, size, seed):
    video = random_scene(count, size, seed)
    binary = {name: clip.round() for name, clip in video.clips().items() if CHANNELS[name] == 1}
    video = video.replace(**binary).compose()
    expected = video.background.clone()
    for one in reversed(video.foregrounds):
        expected = torch.where(one.alpha == 1, one.colour, expected)
    assert torch.equal(video.blended, expected)


@quick
@given(count=counts, size=sizes, seed=seeds)
def test_flattened_has_the_same_composite_over_any_background(count, size, seed):
    video = random_scene(count, size, seed)
    flat = video.flattened()
    assert len(flat.foregrounds) == 1
    assert torch.equal(flat.background, video.background)
    torch.testing.assert_close(flat.compose().blended, video.compose().blended, rtol=0, atol=1e-6)
    for background in ((0, 0, 0), (1, 1, 1), 1 - video.background):
        torch.testing.assert_close(flat.over(background), video.over(background), rtol=0, atol=1e-6)
    torch.testing.assert_close(flat.premultiplied(), video.premultiplied(), rtol=0, atol=1e-6)
    assert flat.flattened() is flat


@quick
@given(count=counts, size=sizes, seed=seeds, number=st.integers(0, 3))
def test_flattened_keeps_what_is_visible_alone(count, size, seed, number):
    video = random_scene(count, size, seed)
    alone = number % count
    kept = [one if i == alone else Foreground(one.colour, one.alpha * 0) for i, one in enumerate(video.foregrounds)]
    flat = video.replace(foregrounds=kept).flattened()
    one = video.foregrounds[alone]
    assert torch.equal(flat.alpha, one.alpha)
    seen = (one.alpha > 0).expand_as(one.colour)
    assert torch.equal(flat.foreground[seen], one.colour[seen])


@quick
@given(count=counts, size=sizes, seed=seeds)
def test_premultiplied_is_the_light_over_black(count, size, seed):
    video = random_scene(count, size, seed)
    torch.testing.assert_close(video.premultiplied(), video.over((0, 0, 0)), rtol=0, atol=1e-6)
    if count == 1:
        assert torch.equal(video.premultiplied(), video.alpha * video.foreground)


def test_composition_names_the_missing_clip_of_any_foreground():
    video = random_scene(2)
    for action in ("premultiplied", "flattened", "compose"):
        with pytest.raises(ValueError, match=r"foreground-2 and alpha-2, but alpha-2 is missing"):
            getattr(video.replace(**{"alpha-2": None}), action)()
    assert video.replace(**{"foreground-2": None}).with_blended().blended is None


def test_frames_and_pixels_are_chosen_in_every_clip():
    video = random_scene(3, (4, 6, 8)).compose()
    for name, clip in video.clips().items():
        assert torch.equal(video[1:3].clips()[name], clip[1:3])
        assert torch.equal(video.crop(1, 2, 3, 4).clips()[name], clip[..., 1:4, 2:6])
    assert {(one.colour.shape[-2:], one.alpha.shape[-2:]) for one in video.fit(5, 5).foregrounds} == {((5, 5), (5, 5))}


def test_resize_weights_each_colour_with_its_own_alpha():
    video = random_scene(3, (1, 9, 9))
    small = video.resize(4, 5)
    for one, resized in zip(video.foregrounds, small.foregrounds, strict=True):
        assert LayeredVideo(one.colour, one.alpha).resize(4, 5).foregrounds == (resized,)
    lone = video.replace(alpha=None)
    assert lone.resize(4, 5).behind == small.behind
