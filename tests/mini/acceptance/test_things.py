"""Judges of the things of an atlas and of their motion, and the figures of generation that need them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
import torch
from torch import Tensor

from layerflow import LayerFlowPipeline
from layerflow.mini.acceptance import things
from layerflow.mini.acceptance.generated import GENERATED, Prompts, generated_rows, measure_generated
from layerflow.mini.acceptance.moving import Cutout, move
from layerflow.mini.acceptance.sheet import made_row, write_rows
from layerflow.mini.acceptance.things import NONE, ThingsConfig, ThingsJudge, load_things, stabilise, train_things
from layerflow.mini.world.atlas import Atlas

TINY = ThingsConfig(widths=(8, 16), hidden=32, steps=120, motion_steps=200, batch_size=32)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return made_up.write_atlas(tmp_path_factory.mktemp("things") / "atlas")


@pytest.fixture(scope="module")
def judge(atlas: Atlas) -> ThingsJudge:
    return train_things(atlas, TINY)


def clip(atlas: Atlas, name: str, frames: int = 10, frozen: bool = False) -> tuple[Tensor, Tensor]:
    """Return colour and alpha of a true clip of a 3D thing."""
    sprite = next(one for one in atlas.sprites if one.name == name and one.style == "3d")
    phases = torch.from_numpy(np.array(atlas.phases(sprite))).permute(0, 3, 1, 2).float() / 255
    cutout = Cutout(name, phases, 0.0 if frozen else 1.0)
    video = move([cutout], torch.full((3, 64, 64), 0.3), np.random.default_rng(5), 48, frames)
    assert video.foreground is not None
    assert video.alpha is not None
    return video.foreground, video.alpha


def test_stabilised_cutouts_do_not_depend_on_place_and_size() -> None:
    disc = torch.from_numpy(made_up.disc((250, 200, 40), 1.0, 40)).permute(2, 0, 1)[None].float() / 255
    pictures = torch.zeros(2, 4, 80, 80)
    pictures[0, :, 3:43, 5:45] = disc[0]
    small = torch.nn.functional.avg_pool2d(disc, 2)[0]
    pictures[1, :, 50:70, 55:75] = small
    alpha = pictures[:, 3:]
    colour = pictures[:, :3] / alpha.clamp(min=1e-6)
    one, other = stabilise(colour.clamp(0, 1), alpha, 24)
    assert float((one - other).abs().mean()) < 0.03
    assert float(one[3].mean()) > 0.3
    assert bool((one[3, 0] == 0).all())


def test_empty_mattes_give_empty_cutouts() -> None:
    assert not bool(stabilise(torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16), 8).any())


def test_the_judge_names_true_things_and_styles(atlas: Atlas, judge: ThingsJudge) -> None:
    assert judge.heads["thing"] == ("apple", "fox", "frog", "whale")
    named = {name: judge.name(*clip(atlas, name)) for name in made_up.COLOURS}
    assert [thing for thing, _ in named.values()] == list(made_up.COLOURS)
    assert judge.groups == 4


def test_the_judge_tells_own_motion_from_a_path(atlas: Atlas, judge: ThingsJudge) -> None:
    assert judge.moving == ("fox", "frog", NONE)
    assert judge.name_motion(*clip(atlas, "frog")) == "frog"
    assert judge.name_motion(*clip(atlas, "frog", frozen=True)) == NONE
    assert judge.name_motion(*clip(atlas, "frog", frames=3)) == NONE  # too short to tell


def test_things_that_look_alike_are_one(atlas: Atlas) -> None:
    twin = replace(next(one for one in atlas.sprites if one.name == "apple"), name="red apple", number=99)
    judge = train_things(replace(atlas, sprites=(*atlas.sprites, twin)), replace(TINY, motion_steps=1))
    assert judge.same("apple", "red apple")
    assert not judge.same("apple", "whale")
    assert judge.groups == 4


def test_judges_are_kept_in_the_cache(atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = replace(TINY, steps=2, motion_steps=2)
    progress: list[str] = []
    first = load_things(atlas, config, lambda *call: progress.append(call[2]))
    assert [label.split(",")[0] for label in progress] == ["judge of things", "judge of motion"]
    monkeypatch.setattr(things, "train_things", lambda *_: pytest.fail("trained again"))
    again = load_things(atlas, config)
    assert all(
        torch.equal(one, other)
        for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


# --- generation


def test_prompts_are_of_the_wanted_split(atlas: Atlas) -> None:
    known, held_out = Prompts(atlas, held_out=False), Prompts(atlas, held_out=True)
    assert sorted(known.names) == ["apple", "frog", "whale"]
    assert held_out.names == held_out.moving() == ["fox"]
    assert {one.name for one in known.backgrounds} == {"hill2", "hill3"}
    sprite = known.sprite_of("frog", np.random.default_rng(0))
    assert sprite.moves
    assert sprite.phrase() == "a frog jumping"


@pytest.fixture
def longer_pipeline(tiny_pipeline: LayerFlowPipeline) -> LayerFlowPipeline:
    tiny_pipeline.transformer.register_to_config(sample_frames=8)
    return tiny_pipeline


def test_all_cases_run_and_have_rows(
    atlas: Atlas, judge: ThingsJudge, longer_pipeline: LayerFlowPipeline, tmp_path: Path
) -> None:
    records, made = measure_generated(
        longer_pipeline, atlas, judge, list(GENERATED), samples=3, seeds=(0,), steps=1, shown=1
    )
    assert [one["case"] for one in records] == [
        case for case in ("objects", "styles", "animate", "inbetween") for _ in range(3)
    ]
    assert {one["prompts"][0] for one in records if one["case"] == "objects"} == {
        "an apple", "a frog jumping", "a whale",
    }  # fmt: skip
    rows = {(row.task, row.figure): row for row in generated_rows(records)}
    bars = {task: row.bar for (task, _), row in rows.items() if row.bar is not None}
    assert bars == {"objects": 70, "styles": 0.85, "animate": 90, "inbetween": 3}
    assert all(one["real_matches"] for one in records if one["case"] == "objects")
    write_rows([made_row(one) for one in made], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_two_prompts_need_two_foregrounds(
    atlas: Atlas, judge: ThingsJudge, longer_pipeline: LayerFlowPipeline, tiny_stack: Path
) -> None:
    options: dict[str, Any] = {"samples": 2, "seeds": (0,), "steps": 1}
    assert measure_generated(longer_pipeline, atlas, judge, ["two-prompts"], **options)[0] == []
    stack = LayerFlowPipeline.from_pretrained(tiny_stack)
    stack.set_progress_bar_config(disable=True)
    records, _ = measure_generated(stack, atlas, judge, ["two-prompts"], **options)
    assert [len(one["prompts"]) for one in records] == [2, 2]
    (row,) = generated_rows(records)
    assert row.bar == 60


def test_inbetween_is_compared_with_cross_fading() -> None:
    records = [{"case": "inbetween", "seed": 0, "alpha_mse": 0.01, "faded_mse": 0.1}]
    (row,) = generated_rows(records)
    assert row.value == pytest.approx(10)
    assert row.passed
