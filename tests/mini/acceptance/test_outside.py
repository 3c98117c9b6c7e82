"""Decomposition outside of the drawn world: shots, what is given, and figures."""

from pathlib import Path

import made_up
import numpy as np
import pytest
import torch

from layerflow import LayerFlowPipeline
from layerflow.core.layered_video import LayeredVideo
from layerflow.core.schema import ALPHA
from layerflow.evaluation import metrics
from layerflow.mini.acceptance import outside
from layerflow.mini.acceptance.footage import (
    MissingMaterialError,
    differences,
    find_stamps,
    median_picture,
    people_windows,
    read_footage,
    read_frames,
    read_stamp,
)
from layerflow.mini.acceptance.moving import Cutout, move
from layerflow.mini.acceptance.outside import (
    Material,
    click_place,
    make_given,
    measure_outside,
    measure_shot,
    outside_rows,
    pointed_frame,
)
from layerflow.mini.acceptance.sheet import taken_row, write_rows


@pytest.fixture
def material(tmp_path: Path) -> Material:
    made_up.write_atlas(tmp_path / "atlas")
    made_up.write_stamps(tmp_path / "art")
    made_up.write_avi(tmp_path / "art/deb/vtest.avi", made_up.surveillance(frames=64))
    made_up.write_footage(tmp_path / "art/footage")
    return Material(tmp_path / "art", tmp_path / "atlas")


@pytest.fixture
def scene() -> LayeredVideo:
    cutouts = [
        Cutout(name, torch.from_numpy(made_up.disc((200, 40, 40), 1.0)).permute(2, 0, 1)[None] / 255) for name in "ab"
    ]
    return move(cutouts, torch.rand(3, 50, 70), np.random.default_rng(3), 32, 6)


# --- moving cut-outs


def test_moving_layers_compose_exactly(scene: LayeredVideo) -> None:
    assert len(scene.foregrounds) == 2
    assert scene == scene.compose()
    assert all(
        one.colour is not None and bool((one.colour[(one.alpha == 0).expand(-1, 3, -1, -1)] == 0.5).all())
        for one in scene.foregrounds
    )


def test_moving_scenes_are_reproducible_and_move(scene: LayeredVideo) -> None:
    cutout = Cutout("a", torch.ones(1, 4, 20, 20))
    runs = [
        move([cutout], torch.linspace(0, 1, 70).expand(3, 50, 70), np.random.default_rng(1), 32, 6) for _ in range(2)
    ]
    assert runs[0] == runs[1]
    alpha, background = runs[0].alpha, runs[0].background
    assert alpha is not None
    assert background is not None
    assert float(alpha[0].max()) == 1  # in view in the first frame
    assert metrics.matte_travel(alpha) > 0.03
    assert float(background.diff(dim=0).abs().max()) > 0  # so does the camera


def test_cutouts_show_their_phases_in_turn() -> None:
    phases = torch.zeros(2, 4, 20, 20)
    phases[0, [0, 3]] = 1.0  # red
    phases[1, [2, 3]] = 1.0  # blue
    video = move([Cutout("a", phases)], torch.full((3, 50, 50), 0.5), np.random.default_rng(0), 32, 4)
    assert video.foreground is not None
    assert video.alpha is not None
    solid = [frame[:, alpha[0] == 1].mean(1) for frame, alpha in zip(video.foreground, video.alpha, strict=True)]
    redder = [bool(colour[0] > colour[2]) for colour in solid]
    assert redder in ([True, False, True, False], [False, True, False, True])


# --- material


def test_stamps_are_photographs_with_alpha(material: Material) -> None:
    files = find_stamps(material.art)
    assert [path.stem for path in files] == ["cow", "wall", "fig"]
    cow, wall, _ = (read_stamp(path) for path in files)
    assert wall is None
    assert cow is not None
    assert cow.phases.shape[:2] == (1, 4)
    assert max(cow.phases.shape[2:]) < 150  # cut to what is opaque


def test_missing_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingMaterialError, match="tuxpaint-stamps-default"):
        find_stamps(tmp_path)
    with pytest.raises(MissingMaterialError, match="opencv-doc"):
        _ = Material(tmp_path, tmp_path).surveillance
    with pytest.raises(MissingMaterialError, match="NAME/frames"):
        list(read_footage(tmp_path, 16, 4))
    (tmp_path / "bad.avi").write_bytes(b"not a video")
    with pytest.raises(MissingMaterialError, match=r"bad\.avi"):
        read_frames(tmp_path / "bad.avi")


def test_the_median_picture_has_no_people(tmp_path: Path) -> None:
    film = made_up.surveillance()
    frames = read_frames(made_up.write_avi(tmp_path / "film.avi", film))
    assert np.array_equal(frames, film)
    median = median_picture(frames, rows=7)
    assert np.array_equal(median, film[-1])
    mask = differences(frames[:1], median)[0, 0]
    true = torch.zeros_like(mask)
    true[30:60, 20:32] = 1
    assert metrics.alpha_iou(mask[None, None], true[None, None]) > 0.75


def test_specks_and_lines_are_not_people() -> None:
    film = made_up.surveillance()
    film[0, 5:7, :] = 255  # a line of two pixels
    mask = differences(film[:1], film[-1])
    assert not bool(mask[0, 0, :12].any())
    assert bool(mask[0, 0, 30:60].any())


def test_windows_are_where_the_people_are() -> None:
    film = made_up.surveillance(frames=64)
    shots = people_windows(film, 32, 4, windows=1, side=64, span=32)
    assert [shot.name for shot in shots] == ["frames 0 to 31 at 0, 0"]
    truth = shots[0].truth
    assert truth.blended is not None
    assert truth.blended.shape == (4, 3, 32, 32)
    assert truth.alpha is not None
    assert float(truth.alpha[0].max()) == 1
    with pytest.raises(MissingMaterialError, match="1 windows with people, but 2"):
        people_windows(film, 32, 4, windows=2, side=64, span=32)


def test_footage_is_cut_around_its_masks(material: Material) -> None:
    (shot,) = read_footage(material.art / "footage", 40, 4)
    assert shot.name == "disc"
    assert shot.truth.alpha is not None
    assert shot.truth.alpha.shape == (4, 1, 40, 40)
    # The disc is at column 35 to 41 of 60, in a square of 40 that can be moved to the right by 20 at most.
    columns = shot.truth.alpha[1, 0].any(0).nonzero().flatten()
    assert 15 < float(columns.float().mean()) < 22


def test_footage_without_masks_is_refused(material: Material) -> None:
    next((material.art / "footage/disc/masks").iterdir()).unlink()
    with pytest.raises(MissingMaterialError, match="8 frames and 7 masks"):
        list(read_footage(material.art / "footage", 40, 4))


# --- what is given


def test_a_click_is_deepest_inside_the_largest_part() -> None:
    matte = torch.zeros(30, 30)
    matte[2:6, 2:6] = 1  # a smaller part
    matte[10:25, 12:27] = 1
    assert click_place(matte) == (17, 19)
    ring = torch.zeros(30, 30)
    ring[5:25, 5:25] = 1
    ring[10:20, 10:20] = 0
    row, column = click_place(ring)
    assert ring[row, column] == 1


def test_shots_are_pointed_at_where_they_are_first_visible() -> None:
    alpha = torch.zeros(4, 1, 16, 16)
    alpha[2:, :, 4:12, 4:12] = 1
    assert pointed_frame(alpha) == 2
    truth = LayeredVideo(alpha=alpha, blended=torch.rand(4, 3, 16, 16))
    click = make_given(truth, "click")
    known = click.hints[ALPHA]
    assert known.flatten(1).any(1).tolist() == [False, False, True, False]
    assert bool((alpha[known] == 1).all())
    assert click.numbers(ALPHA) == ()
    assert make_given(truth, "matte").numbers(ALPHA) == (2,)
    assert make_given(truth, "alone").clips == ("blended",)


# --- figures


def test_true_layers_reach_every_bar(scene: LayeredVideo) -> None:
    behind = scene.background
    far = scene.foregrounds[1]
    assert behind is not None
    assert far.colour is not None
    assert far.alpha is not None
    one = LayeredVideo(scene.foreground, scene.alpha, far.alpha * far.colour + (1 - far.alpha) * behind, scene.blended)
    record = measure_shot(scene, one, "alone")
    assert record["alpha_iou"] == 1
    assert record["alpha_mae"] == 0
    assert record["background_mse"] < 1e-12
    swapped = scene.replace(foregrounds=scene.foregrounds[::-1])
    assert measure_shot(scene, swapped, "both")["matched_iou"] == 1


def test_errors_behind_the_foreground_count_in_the_whole_frame_only(scene: LayeredVideo) -> None:
    one = LayeredVideo(scene.foreground, scene.alpha, scene.background, scene.blended)
    assert scene.alpha is not None
    assert scene.background is not None
    covered = scene.alpha.amax(0, keepdim=True) > 1 / 255
    wrong = one.replace(background=torch.where(covered, 1 - scene.background, scene.background))
    record = measure_shot(one, wrong, "alone")
    assert record["background_mse"] > 0
    assert record["never_covered_mse"] == 0


def test_the_given_frame_of_a_matte_does_not_count() -> None:
    alpha = torch.zeros(3, 1, 8, 8)
    alpha[:, :, 2:6, 2:6] = 1
    truth = LayeredVideo(alpha=alpha, blended=torch.rand(3, 3, 8, 8))
    made = alpha.clone()
    made[1:] = 0
    video = LayeredVideo(alpha=made)
    assert measure_shot(truth, video, "matte")["alpha_iou"] == 0
    assert measure_shot(truth, video, "alone")["alpha_iou"] == pytest.approx(1 / 3)


def test_all_cases_run_and_have_rows(
    material: Material, tiny_pipeline: LayerFlowPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def windows(frames: np.ndarray, size: int, count: int) -> list:
        return people_windows(frames, size, count, windows=1, side=64)

    monkeypatch.setattr(outside, "people_windows", windows)
    seen: list[tuple[int, int, str]] = []
    records, taken = measure_outside(
        tiny_pipeline,
        material,
        list(outside.OUTSIDE),
        samples=1,
        seeds=(0,),
        steps=1,
        progress=lambda *one: seen.append(one),
    )
    assert [(one["case"], one["way"]) for one in records] == [
        (case, way) for case in ("cutouts", "two", "vtest", "footage") for way in ("alone", "click", "matte")
    ]
    assert seen[-1] == (1, 1, "footage")
    rows = outside_rows(records)
    bars = {(row.task, row.figure): row.bar for row in rows if row.bar is not None}
    assert bars["cutouts, alone", "alpha IoU"] == 0.85
    assert bars["vtest, alone", "alpha IoU"] == 0.70
    assert len([row for row in rows if row.task == "cutouts, matte"]) == 4
    write_rows([taken_row(one) for one in taken], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_models_of_two_foregrounds_also_take_both(material: Material, tiny_stack: Path) -> None:
    pipeline = LayerFlowPipeline.from_pretrained(tiny_stack)
    pipeline.set_progress_bar_config(disable=True)
    records, taken = measure_outside(pipeline, material, ["two"], samples=1, seeds=(0,), steps=1)
    assert [one["way"] for one in records] == ["alone", "click", "matte", "both"]
    assert {way: len(video.foregrounds) for way, video in taken[0].videos.items()} == {
        "alone": 1, "click": 1, "matte": 1, "both": 2,
    }  # fmt: skip
    assert outside_rows(records)[-1].figure == "mean IoU of the matched foregrounds"


def test_batches_do_not_change_results(material: Material, tiny_pipeline: LayerFlowPipeline) -> None:
    runs = [
        measure_outside(
            tiny_pipeline, material, ["cutouts"], samples=3, seeds=(0,), ways=["click"], steps=1, batch_size=size
        )[0]
        for size in (1, 3)
    ]
    assert [one["name"] for one in runs[0]] == [one["name"] for one in runs[1]]
    assert [one["alpha_mae"] for one in runs[0]] == pytest.approx([one["alpha_mae"] for one in runs[1]], abs=1e-5)
