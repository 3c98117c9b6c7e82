"""What samples are given besides the whole clips of their task: frame masks, hints, foregrounds that are chosen."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_recipe
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerflow.core.compositing import blend_all
from layerflow.core.config import ConfigError
from layerflow.core.schema import ALPHA_OF, CLIPS, clip_names, model_clips, scene_layers
from layerflow.training.batches import ClipBatches
from layerflow.training.givens import (
    TOLD,
    are_interchangeable,
    choose_foregrounds,
    draw_frames,
    draw_hints,
    draw_kind,
    lacking,
)
from layerflow.training.objective import clip_errors, loss_of, make_target
from layerflow.training.recipe import FRAME_MASKS, HINTS, PhaseRecipe, StageRecipe, load_recipe
from layerflow.training.trainer import Trainer

SIZE = 32


@pytest.fixture
def recipe(tmp_path: Path) -> StageRecipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe.TINY + "name: tiny\nframes_per_batch: 16\nphases: [{steps: 3, frames: {2: 1.0}}]\n")
    return load_recipe(path).stages[0]


def with_hints(recipe: StageRecipe, **changes: object) -> StageRecipe:
    return dataclasses.replace(recipe, model={**recipe.model, "hints": True}, **changes)


def stacked(foregrounds: int, frames: int = 3) -> dict[str, torch.Tensor]:
    """Return the clips of a scene with soft, overlapping foregrounds."""
    generator = torch.Generator().manual_seed(foregrounds)
    names = [name for name in clip_names(scene_layers(foregrounds)) if name != "blended"]
    clips = {n: torch.rand(frames, 1 if "alpha" in n else 3, 8, 8, generator=generator) for n in names}
    stack = [(clips[colour], clips[alpha]) for colour, alpha in ALPHA_OF.items() if colour in clips]
    return clips | {"blended": blend_all(stack, clips["background"])}


@given(
    st.sampled_from(FRAME_MASKS), st.sets(st.sampled_from(CLIPS), max_size=3), st.integers(1, 6), st.integers(0, 2**32)
)
def test_frame_masks(kind: str, whole: set[str], frames: int, seed: int) -> None:
    """Whole clips stay whole, each other clip lacks a frame, and each kind gives the frames that it names."""
    masks = draw_frames(kind, frozenset(whole), CLIPS, frames, np.random.default_rng(seed))
    assert all(masks[name].all() for name in whole)
    partial = {name: mask.nonzero().flatten().tolist() for name, mask in masks.items() if name not in whole}
    assert all(0 < len(numbers) < frames for numbers in partial.values())
    if frames == 1:
        assert not partial
        return
    for numbers in partial.values():
        if kind == "first" or (kind == "ends" and frames == 2):
            assert numbers == [0]
        elif kind == "ends":
            assert numbers == [0, frames - 1]
        elif kind == "prefix":
            assert numbers == list(range(len(numbers)))
    if kind == "matte":
        assert set(partial) == {"alpha"} - whole
    elif kind == "prefix":
        assert set(partial) == set(CLIPS) - whole
    else:
        assert partial


@given(st.sampled_from(HINTS), st.integers(0, 2**32))
@settings(max_examples=50)
def test_hints_are_true_places_of_one_matte_at_one_frame(kind: str, seed: int) -> None:
    rows = torch.arange(SIZE)
    alpha = ((rows[:, None] - 12).abs().maximum((rows[None] - 15).abs()) < 8).float().expand(3, 1, SIZE, SIZE).clone()
    hints = draw_hints(kind, {"alpha": alpha, "alpha-2": 1 - alpha}, {}, np.random.default_rng(seed))
    assert hints.shape == (2, 3, 2, SIZE, SIZE)
    known = hints[:, :, 1]
    assert set(known.unique().tolist()) <= {0.0, 1.0}
    assert sum(bool(frame.any()) for frame in known.flatten(0, 1)) == 1
    assert not hints[:, :, 0][known == 0].any()
    truth = torch.stack([alpha, 1 - alpha])[:, :, 0] * 2 - 1
    wrong = (hints[:, :, 0] - truth)[known == 1].abs() > 0.1
    assert float(wrong.float().mean()) < (0.5 if kind == "click" else 1e-6)  # a disc may reach over an edge


def test_frames_that_are_given_have_no_hints() -> None:
    alpha = torch.ones(3, 1, SIZE, SIZE)
    for seed in range(20):
        given = {"alpha": torch.tensor([True, False, True])}
        hints = draw_hints("matte", {"alpha": alpha}, given, np.random.default_rng(seed))
        assert hints[0, :, 1].flatten(1).any(1).tolist() == [False, True, False]
    assert not draw_hints("click", {"alpha": 0 * alpha}, {}, np.random.default_rng(0)).any()


def test_kinds_are_drawn_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(draw_kind({"first": 0.5, "few": 0.2}, rng) for _ in range(4000))
    assert counts["first"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert counts["few"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert counts[""] / 4000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("seed", range(6))
def test_foregrounds_that_a_network_lacks_belong_to_the_background(seed: int) -> None:
    """What is seen of the chosen one stays, whether the other is before or behind it."""
    clips = stacked(2)
    for name in ("alpha", "alpha-2"):
        clips[name] = (clips[name] > 0.5).float()
    clips["blended"] = blend_all(
        [(clips["foreground"], clips["alpha"]), (clips["foreground-2"], clips["alpha-2"])], clips["background"]
    )
    texts = {"foreground": "a fox", "foreground-2": "a ball", "background": "hills", "blended": "both"}
    own, captions = choose_foregrounds(clips, texts, CLIPS, np.random.default_rng(seed))
    assert tuple(own) == CLIPS
    assert captions == {"foreground": captions["foreground"], "background": "hills"}
    nearest = captions["foreground"] == "a fox"
    visible = clips["alpha"] if nearest else clips["alpha-2"] * (1 - clips["alpha"])
    assert torch.equal(own["alpha"], visible)
    assert torch.allclose(
        blend_all([(own["foreground"], own["alpha"])], own["background"]), clips["blended"], atol=1e-6
    )


def test_both_foregrounds_are_chosen_in_turn() -> None:
    clips, texts = stacked(2), {"foreground": "a fox", "foreground-2": "a ball"}
    chosen = {
        choose_foregrounds(clips, texts, CLIPS, np.random.default_rng(seed))[1]["foreground"] for seed in range(9)
    }
    assert chosen == {"a fox", "a ball"}


def test_foregrounds_that_a_sample_lacks_are_transparent() -> None:
    clips = stacked(1)
    own, _ = choose_foregrounds(clips, {}, model_clips(2), np.random.default_rng(0))
    assert tuple(own) == model_clips(2)
    assert not own["alpha-2"].any()
    assert all(torch.equal(own[name], clips[name]) for name in CLIPS)


def test_clips_that_a_scene_lacks_are_given_at_times() -> None:
    one, _ = choose_foregrounds(stacked(1), {}, model_clips(2), np.random.default_rng(0))
    drawn = [lacking(one, model_clips(2), np.random.default_rng(seed)) for seed in range(200)]
    assert set(drawn) == {frozenset(), frozenset({"foreground-2", "alpha-2"})}
    assert sum(map(bool, drawn)) / len(drawn) == pytest.approx(TOLD, abs=0.1)
    two = {**stacked(2), "alpha-2": torch.ones_like(one["alpha-2"])}
    assert not any(lacking(two, model_clips(2), np.random.default_rng(seed)) for seed in range(9))
    assert not lacking({**one, "alpha": torch.zeros_like(one["alpha"])}, CLIPS, np.random.default_rng(0))


def test_batches_without_masks_are_the_same(recipe: StageRecipe) -> None:
    """Masks have random numbers of their own."""
    plain = ClipBatches(recipe)[0]
    masked = ClipBatches(dataclasses.replace(recipe, frame_masks={"prefix": 1.0}))[0]
    assert plain.given.shape[2] == 1
    assert masked.given.shape == (8, len(CLIPS), 2)
    assert torch.equal(plain.sequence, masked.sequence)
    assert plain.prompts == masked.prompts
    assert plain.hints is None


def test_given_frames_have_no_noise_and_no_loss(recipe: StageRecipe, tiny_pipeline) -> None:
    recipe = dataclasses.replace(recipe, frame_masks={"prefix": 1.0}, tasks={"generate": 1.0})
    batch = ClipBatches(recipe)[0]
    layout, noise = batch.layout, torch.randn_like(batch.sequence)
    target = make_target(tiny_pipeline, batch, batch.sequence, layout, torch.full((8,), 0.5), noise, recipe)
    where = layout.per_frame(batch.given)
    assert torch.equal(target.noised * where, batch.sequence * where)
    assert target.timestep[0].tolist() == [[0.0, 0.5]] * len(CLIPS)
    wrong = torch.where(where, batch.sequence + 1, batch.sequence)
    assert loss_of(clip_errors(wrong, target), target) == 0
    assert loss_of(clip_errors(batch.sequence + 1, target), target) == pytest.approx(4, rel=1e-5)  # t = 0.5 weighs 4


@pytest.mark.parametrize("foregrounds", [1, 2])
def test_training_with_masks_hints_and_stacks(recipe: StageRecipe, tmp_path: Path, foregrounds: int) -> None:
    """Two equal runs give the same losses, and the result says what it was trained for."""
    recipe = with_hints(
        recipe,
        frame_masks=dict.fromkeys(FRAME_MASKS, 0.15),
        hints=dict.fromkeys(HINTS, 0.3),
        mini=dataclasses.replace(recipe.mini, stacks=0.7),
    )
    recipe = dataclasses.replace(recipe, model={**recipe.model, "clips": model_clips(foregrounds)})
    one, two = (tiny_recipe.losses_of(recipe, tmp_path / name) for name in "ab")
    assert one == two
    trainer = Trainer(dataclasses.replace(recipe, phases=(PhaseRecipe(1, {2: 1.0}),)), tmp_path / "c")
    assert trainer.batches[0].hints.any()
    trainer.train()
    config = type(trainer.network.model).load_config(tmp_path / "c" / "tiny" / "model" / "transformer")
    assert config["frame_masks"]
    assert config["hints"]
    assert len(config["clips"]) == 2 + 2 * foregrounds


@pytest.mark.parametrize("told", ["", "prompt", "frame", "hint", "overlap"])
def test_foregrounds_are_interchangeable_where_nothing_tells_them_apart(told: str) -> None:
    clips = stacked(2)
    clips["alpha"][..., :4], clips["alpha-2"][..., 4:] = 0, 0
    layers = ("foreground", "background", "blended", "foreground-2")
    prompts, given, hints = ["", "hills", "hills", ""], {"blended": torch.ones(3, dtype=torch.bool)}, None
    if told == "prompt":
        prompts[3] = "a ball"
    elif told == "frame":
        given["alpha-2"] = torch.tensor([True, False, False])
    elif told == "hint":
        hints = torch.ones(2, 3, 2, 8, 8)
    elif told == "overlap":
        clips["alpha-2"][..., 4] = 1
    assert are_interchangeable(clips, prompts, layers, given, hints) == (told == "")
    one = {name: clip for name, clip in clips.items() if not name.endswith("-2")}
    assert not are_interchangeable(one, prompts, layers, given, hints)


@pytest.mark.parametrize("kind", ["sample", "flow"])
def test_swapped_foregrounds_cost_nothing_at_pure_noise(recipe: StageRecipe, tiny_pipeline, kind: str) -> None:
    recipe = dataclasses.replace(recipe, tasks={"decompose": 1.0}, prompt_dropout=1.0)
    names = model_clips(2)
    batch = ClipBatches(dataclasses.replace(recipe, mini=dataclasses.replace(recipe.mini, stacks=1.0)), clips=names)[0]
    batch.interchangeable = torch.arange(8) < 6
    layout, noise = batch.layout, torch.randn_like(batch.sequence)
    t = torch.ones(8)
    t[5] = 0.9

    class Network:
        prediction_type = kind

    class Pipeline:
        transformer = Network()

    target = make_target(Pipeline(), batch, batch.sequence, layout, t, noise, recipe)
    clips, noises = layout.unpack(batch.sequence), layout.unpack(noise)
    pairs = {"foreground": "foreground-2", "alpha": "alpha-2", "foreground-2": "foreground", "alpha-2": "alpha"}
    swapped = {name: clips[pairs.get(name, name)] for name in names}
    if kind == "flow":
        swapped = {name: noises[name] - clip for name, clip in swapped.items()}
    errors = clip_errors(layout.pack(swapped), target).sum(1)
    assert errors[:5].tolist() == pytest.approx([0] * 5, abs=1e-6)
    assert (errors[5:] > 0.01).all()
    assert clip_errors(target.prediction, target).max() == 0


def test_hints_need_a_network_that_takes_them(recipe: StageRecipe, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="hints: this model takes none; set hints: true under model, or leave hints out"
    ):
        Trainer(dataclasses.replace(recipe, hints={"click": 0.5}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frame_masks: {last: 0.5}", "frame_masks: unknown kind 'last'; the kinds are first, ends, few, prefix, matte"),
        ("frame_masks: {first: 0.7, few: 0.7}", "frame_masks: the shares add up to 1.4"),
        ("hints: {click: -1.0}", "hints: click is -1.0"),
        ("mini: {stacks: 2.0}", "stacks is 2.0, but must be a share"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    lines = [line for line in tiny_recipe.TINY.splitlines() if not line.startswith(change.split(":")[0])]
    path.write_text("\n".join(lines) + "\nname: bad\nphases: [{steps: 3, frames: {2: 1.0}}]\n" + change)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)
