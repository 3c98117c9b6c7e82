"""Models by name: hub ids found among earlier downloads, pinned, offline; what is not whole is named."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from layerflow import LayerFlowPipeline
from layerflow.cli import run
from layerflow.models.folders import INDEX, UnknownModelError, model_folder
from layerflow.models.registry import skeleton

COMMITS = {"main": "a" * 40, "old": "b" * 40}


@pytest.fixture
def cache(tiny_model: Path, tmp_path: Path) -> Path:
    """A hub cache that holds two revisions of owner/tiny, as an earlier download leaves them."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    (repo / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        (repo / "refs" / name).write_text(commit)
        shutil.copytree(tiny_model, repo / "snapshots" / commit)
    config = repo / "snapshots" / COMMITS["old"] / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": 1.0}))
    return repo.parent


def test_a_downloaded_model_loads_offline_at_the_pinned_revision(cache: Path) -> None:
    for revision, shift in ((None, 3.0), ("old", 1.0), (COMMITS["old"], 1.0)):
        pipeline = LayerFlowPipeline.from_pretrained(
            "owner/tiny", cache_dir=cache, local_files_only=True, revision=revision
        )
        assert pipeline.scheduler.config.shift == shift
    assert model_folder("owner/tiny@old", cache_dir=cache, local_files_only=True).name == COMMITS["old"]
    with pytest.raises(UnknownModelError, match="is not completely downloaded, and the hub is out of reach"):
        model_folder("owner/other", cache_dir=cache, local_files_only=True)


def test_no_pickle_is_asked_of_the_hub(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kwargs: asked.append((name, kwargs)) or str(tiny_model)
    )
    assert model_folder("owner/tiny", revision="v1") == tiny_model
    assert [(name, kwargs["revision"]) for name, kwargs in asked] == [("owner/tiny", "v1")] * 2
    first, both = (kwargs["allow_patterns"] for _, kwargs in asked)
    assert first == ["*.json"]
    assert not any(Path(name).match(pattern) for pattern in both for name in ("a.bin", "b.pt", "c.py"))
    asked.clear()
    model_folder("owner/tiny", weights=False)
    assert len(asked) == 1


def test_what_cannot_be_used_is_refused_before_its_weights_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / INDEX).write_text('{"_class_name": "FluxPipeline"}')
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **kwargs: asked.append(1) or str(tmp_path))
    with pytest.raises(UnknownModelError, match="is a FluxPipeline"):
        model_folder("owner/flux")
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "zai-org/CogVideoX1.5-5B"])
def test_info_takes_model_names_with_points_for_models(
    name: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tiny_model))
    assert run(["info", name]) == 0
    assert name in capsys.readouterr().out
    assert run(["info", "clips/missing.mp4"]) == 2


def _http(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    return kind("refused\nmore", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_http(RepositoryNotFoundError), "there is no model owner/tiny on the hub"),
        (_http(RevisionNotFoundError), "has no revision 'v9'"),
        (_http(HfHubHTTPError), "could not be downloaded from the hub: refused"),
        (ConnectionError("cut off"), "could not be downloaded from the hub: cut off"),
        (HfHubHTTPError.__bases__[0]("reset"), "could not be downloaded from the hub: reset"),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_one_sentence(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UnknownModelError, match=message):
        model_folder("owner/tiny", revision="v9")
    assert run(["info", "owner/tiny"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_damaged_model_is_named_with_its_file(tiny_model: Path, tmp_path: Path) -> None:
    for part, content, message in (
        (INDEX, "{}", "is damaged"),
        ("transformer/config.json", "[", r"transformer/config.json: it is missing or damaged"),
        ("transformer/config.json", '{"dim": "large"}', "is no model of layerflow"),
    ):
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        (folder / part).write_text(content)
        with pytest.raises(UnknownModelError, match=message):
            skeleton(folder)
        shutil.rmtree(folder)
