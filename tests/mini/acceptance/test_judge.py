"""The judge: classification, training and cache file."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layerflow.mini.acceptance import Judge, JudgeConfig, MissingJudgeError, judge, load_judge, train_judge
from layerflow.mini.world import FAMILIES, OBJECTS


def test_objects_have_a_class_each() -> None:
    names = judge.FOREGROUND_HEADS["object"]
    assert len(names) == len(OBJECTS) >= 30
    assert {entry.name for entry in OBJECTS if entry.held_out} <= set(names)


@pytest.mark.parametrize("size", [16, 24])
def test_verdict_has_a_class_per_head(untrained_judge: Judge, size: int) -> None:
    colour, alpha = torch.rand(2, 3, size, size), torch.rand(2, 1, size, size)
    verdict = untrained_judge.name_foreground(colour, alpha)
    assert set(verdict.names) == {"object", "colour"}
    shares = torch.tensor(list(verdict.log_probability["object"].values())).exp()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-4)
    assert verdict.of("object", verdict.names["object"]) == max(verdict.log_probability["object"].values())
    assert verdict.of("object", "zeppelin") < -15


def test_background_colour_fits_the_family(untrained_judge: Judge) -> None:
    for seed in range(5):
        background = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        names = untrained_judge.name_background(background).names
        assert names["colour"] in FAMILIES[names["family"]].colours


def test_transparent_colour_is_ignored(untrained_judge: Judge) -> None:
    alpha = torch.zeros(2, 1, 16, 16)
    one = untrained_judge.name_foreground(torch.zeros(2, 3, 16, 16), alpha)
    other = untrained_judge.name_foreground(torch.ones(2, 3, 16, 16), alpha)
    assert one == other


def test_global_random_state_is_unchanged() -> None:
    before = torch.random.get_rng_state()
    Judge(JudgeConfig(widths=(4, 4)))
    stills = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    again = [judge.augment(stills, 0.05, torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(*again)
    assert 0 <= float(again[0].min()) <= float(again[0].max()) <= 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    judge.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        judge.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.real_scenes
def test_training_reaches_accuracy(tiny_config: JudgeConfig) -> None:
    config = replace(tiny_config, size=32, widths=(8, 16), stills=60, background_epochs=30, leak_epochs=40)
    stills = judge.draw_stills(config)
    trained = train_judge(config, stills=stills)
    with torch.no_grad():
        logits = trained.background(stills.background.float() / 255)["family"]
    correct = (logits.argmax(1) == stills.labels["background"]["family"]).float().mean()
    assert float(correct) > 0.5
    shown = stills.labels["leak"]["foreground"].bool()
    detected = [trained.detects_foreground(still[None].float() / 255) for still in stills.leak]
    assert float((torch.tensor(detected) == shown).float().mean()) > 0.7


@pytest.mark.real_scenes
def test_every_other_leak_still_has_a_foreground(tiny_config: JudgeConfig) -> None:
    stills = judge.draw_stills(tiny_config)
    differ = (stills.leak.float() - stills.background.float()).abs().flatten(1).amax(1) > 2
    assert torch.equal(differ, stills.labels["leak"]["foreground"].bool())
    assert differ.float().mean() == 0.5


@pytest.mark.real_scenes
def test_judge_is_cached(tiny_config: JudgeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingJudgeError, match="train_if_missing"):
        load_judge(train_if_missing=False, config=tiny_config)
    seen: list[tuple[int, int, str]] = []
    first = load_judge(config=tiny_config, progress=lambda *call: seen.append(call))
    assert {label for *_, label in seen} == {"judge: foreground", "judge: background", "judge: leak"}
    assert all(0 < done <= total for done, total, _ in seen)
    path = judge.judge_path(tiny_config)
    assert [path] == list((tmp_path / "layerflow").iterdir())
    second = load_judge(train_if_missing=False, config=tiny_config)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not second.training
    assert judge.judge_path(replace(tiny_config, seed=1)) != path
