"""The ComfyUI nodes, loaded and run as ComfyUI does: by path, through INPUT_TYPES, FUNCTION and RETURN_TYPES."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from layerflow import LayeredVideo
from layerflow.media import load_layers

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
SOCKETS = {"IMAGE", "MASK", "STRING", "INT", "FLOAT", "LAYERFLOW_MODEL", "LAYERFLOW_LAYERS"}


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    """`load_custom_node` of ComfyUI, in short: a folder with a dot in its module's name."""
    name = "custom_nodes.layer.flow"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    return dict(module.NODE_CLASS_MAPPINGS)


@pytest.fixture
def model(nodes: dict[str, Any], tiny_model: Path) -> Any:
    return run(nodes, "LoadModel", name=str(tiny_model), device="cpu", dtype="auto")[0]


def run(nodes: dict[str, Any], name: str, /, **inputs: Any) -> Any:
    """Call a node with the defaults of its sockets and what is given, by keyword, as ComfyUI does."""
    node = nodes[f"LayerFlow{name}"]
    sockets = node.INPUT_TYPES()
    values = {key: kind[1]["default"] for key, kind in sockets["required"].items() if "default" in (*kind, {})[1]}
    assert set(inputs) <= set(sockets["required"]) | set(sockets.get("optional", {}))
    assert set(sockets["required"]) <= {*values, *inputs}
    return getattr(node(), node.FUNCTION)(**{**values, **inputs})


def images(frames: int, height: int = 24, width: int = 20) -> torch.Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(0))


def test_nodes_keep_the_contract(nodes: dict[str, Any]) -> None:
    assert len(nodes) == 10
    for node in nodes.values():
        sockets = node.INPUT_TYPES()
        assert set(sockets) <= {"required", "optional", "hidden"}
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
        for group in sockets.values():
            for name, kind in group.items():
                assert isinstance(kind, tuple)
                assert isinstance(kind[0], list) or kind[0] in SOCKETS
                assert name in taken or anything
        assert isinstance(node.RETURN_TYPES, tuple)
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        assert set(node.RETURN_TYPES) <= SOCKETS
        assert isinstance(node.CATEGORY, str)


def is_layers(layers: tuple[Any, ...]) -> bool:
    *layers, video = layers
    assert list(video.clips()) == ["foreground", "alpha", "background", "blended"]
    shapes = [tuple(layer.shape) for layer in layers]
    return shapes == [(2, 16, 16, 3), (2, 16, 16), (2, 16, 16, 3), (2, 16, 16, 3)] and all(
        float(layer.min()) >= 0 and float(layer.max()) <= 1 for layer in layers
    )


def test_seed_decides_the_layers(nodes: dict[str, Any], model: Any) -> None:
    request_inputs = {"model": model, "foreground_prompt": "a fox", "background_prompt": "hills", "steps": 2}
    first, again, other = (run(nodes, "Generate", seed=seed, **request_inputs) for seed in (1, 1, 2))
    assert is_layers(first)
    assert first[-1] == again[-1]
    assert not torch.equal(first[0], other[0])


def test_video_is_decomposed(nodes: dict[str, Any], model: Any) -> None:
    given = images(5, 16, 16)
    layers = run(nodes, "Decompose", model=model, blended=given, steps=2)
    assert is_layers(layers)
    assert torch.equal(layers[3], given[:2])
    assert is_layers(run(nodes, "Decompose", model=model, blended=images(5), steps=2))


def test_given_clips_are_kept(nodes: dict[str, Any], model: Any) -> None:
    still = run(nodes, "AddForeground", model=model, background=images(1, 16, 16), steps=2, foreground_prompt="a fox")
    assert is_layers(still)
    assert torch.equal(still[2], images(1, 16, 16).expand(2, -1, -1, -1))
    foreground, alpha, *_ = still
    given = {"foreground": foreground, "alpha": alpha}
    added = run(nodes, "AddBackground", model=model, steps=2, background_prompt="sea", **given)
    assert torch.equal(added[0], foreground)
    assert torch.equal(added[1], alpha)
    assert is_layers(run(nodes, "AddBackground", model=model, foreground=images(3), alpha=images(1)[..., 0], steps=2))


def test_matte_of_one_frame_and_clicks_guide(nodes: dict[str, Any], model: Any) -> None:
    inputs = {"model": model, "blended": images(4, 16, 16), "frames": 4, "steps": 2}
    plain = run(nodes, "Decompose", **inputs)
    matte = images(1, 16, 16)[..., 0]
    given = run(nodes, "Decompose", **inputs, alpha=matte, alpha_frames="2")
    assert torch.equal(given[1][2], matte[0])
    assert not torch.equal(given[1][0], matte[0])
    clicked = run(nodes, "Decompose", **inputs, object="5,6@0\n", not_object="12,12@0")
    assert clicked[1][0, 6, 5] > plain[1][0, 6, 5]
    trimap = torch.full((1, 16, 16), 0.5)
    trimap[:, 4:8, 4:8] = 1
    marked = run(nodes, "Decompose", **inputs, trimap=trimap, trimap_frames="0")
    assert marked[1][0, 5, 5] > plain[1][0, 5, 5]
    assert all(torch.equal(layers[3], inputs["blended"]) for layers in (given, clicked, marked))


def test_frames_of_any_clip_are_kept(nodes: dict[str, Any], model: Any) -> None:
    keys, shot = images(2, 16, 16), 1 - images(4, 16, 16)
    inputs = {"model": model, "frames": 4, "steps": 2, "background": keys, "blended": shot}
    layers = run(nodes, "Complete", **inputs, background_frames="0, -1", blended_frames="1-2")
    assert torch.equal(layers[2][[0, 3]], keys)
    assert torch.equal(layers[3][1:3], shot[1:3])
    with pytest.raises(ValueError, match="background@0-2: it has 2 frames, so none for frame 2"):
        run(nodes, "Complete", **inputs, background_frames="0-2")
    with pytest.raises(ValueError, match="background@first: 'first' are no frames"):
        run(nodes, "Complete", **inputs, background_frames="first")


def test_still_is_the_first_frame(nodes: dict[str, Any], model: Any) -> None:
    inputs = {"model": model, "still": images(1, 16, 16), "steps": 2, "background_prompt": "a valley"}
    layers = run(nodes, "Animate", **inputs, alpha=images(1, 16, 16)[..., 0])
    assert torch.equal(layers[0][0], inputs["still"][0])
    assert torch.equal(layers[1][0], inputs["still"][0, ..., 0])
    assert torch.equal(run(nodes, "Animate", **inputs)[3][0], inputs["still"][0])
    with pytest.raises(ValueError, match="still has 2 frames; give one picture"):
        run(nodes, "Animate", **{**inputs, "still": images(2)})


def test_prompts_of_foregrounds_are_paragraphs(nodes: dict[str, Any], model: Any) -> None:
    one = run(nodes, "Generate", model=model, foreground_prompt="a fox\nthat runs", steps=1)
    assert is_layers(one)
    with pytest.raises(ValueError, match="2 foregrounds are prompted or given, but this model has 1"):
        run(nodes, "Generate", model=model, foreground_prompt="a fox\n\na dog", steps=1)


def test_each_foreground_has_its_prompt(nodes: dict[str, Any], tiny_stack: Path) -> None:
    (model,) = run(nodes, "LoadModel", name=str(tiny_stack), device="cpu", dtype="auto")
    inputs = {"foreground_prompt": "a fox\n\na dog", "background_prompt": "hills"}
    *images, layers = run(nodes, "Generate", model=model, steps=1, **inputs)
    assert len(layers.foregrounds) == 2
    picked = run(nodes, "PickForeground", layers=layers, number=1)
    assert torch.equal(picked[0], images[0])


def test_foreground_is_picked_and_saved(nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    near, far = (LayeredVideo(torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16)).foregrounds[0] for _ in range(2))
    layers = LayeredVideo(background=torch.rand(2, 3, 16, 16)).replace(foregrounds=[near, far])
    colour, alpha = run(nodes, "PickForeground", layers=layers, number=2)
    assert torch.equal(colour.permute(0, 3, 1, 2), far.colour)
    assert torch.equal(alpha[:, None], far.alpha)
    with pytest.raises(ValueError, match="number is 3, but the layers have 2 foregrounds"):
        run(nodes, "PickForeground", layers=layers, number=3)
    folder = run(nodes, "SaveLayered", format="ffv1", layers=layers)["result"][0]
    torch.testing.assert_close(load_layers(folder).clips()["foreground-2"], far.colour, atol=1e-4, rtol=0)


def test_composing_is_exact(nodes: dict[str, Any]) -> None:
    foreground, alpha = images(3), torch.zeros(3, 24, 20)
    alpha[:, :12] = 1
    (blended,) = run(nodes, "Compose", foreground=foreground, alpha=alpha, background=1 - images(1))
    assert torch.equal(blended[:, :12], foreground[:, :12])
    torch.testing.assert_close(blended[:, 12:], (1 - images(1)).expand(3, -1, -1, -1)[:, 12:])


def test_layers_are_saved_in_the_output_folder(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy = SimpleNamespace(get_output_directory=lambda: str(tmp_path / "output"))
    monkeypatch.setitem(sys.modules, "folder_paths", comfy)
    layers = {"foreground": images(2), "alpha": images(2)[..., 0]}
    for number in (1, 2):
        saved = run(nodes, "SaveLayered", format="ffv1", fps=12.0, **layers)
        assert saved["result"] == (str(tmp_path / "output" / f"layerflow_{number:05d}"),)
    video = load_layers(saved["result"][0])
    assert video.fps == 12
    torch.testing.assert_close(video.alpha, layers["alpha"][:, None], atol=1 / 65535, rtol=0)
    for prefix in ("../out", "/tmp/out", "a/../../b"):
        with pytest.raises(ValueError, match="leads out of"):
            run(nodes, "SaveLayered", filename_prefix=prefix, **layers)


def test_progress_and_interruption(nodes: dict[str, Any], model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            assert total == 5

        def update(self, by: int) -> None:
            steps.append(by)

    class InterruptError(Exception):
        pass

    def check() -> None:
        if len(steps) == 2:
            raise InterruptError

    management = ModuleType("comfy.model_management")
    management.throw_exception_if_processing_interrupted = check  # type: ignore[attr-defined]
    utils = ModuleType("comfy.utils")
    utils.ProgressBar = Bar  # type: ignore[attr-defined]
    for module in (ModuleType("comfy"), management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(InterruptError):
        run(nodes, "Generate", model=model, steps=5)
    assert steps == [1, 1]
