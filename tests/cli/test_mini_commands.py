"""`layerflow mini`: training of the bundled model's own parts."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from layerflow.cli import run
from layerflow.mini.world import MissingFontError, find_font

UPSCALER = """
size: 32
clip_frames: 3
factor: 2
width: 8
num_blocks: 3
crop: 16
frames: 2
batch: 8
steps: 4
workers: 0
log_every: 2
checkpoint_every: 2
"""


def has_font() -> bool:
    try:
        find_font()
    except MissingFontError:
        return False
    return True


@pytest.mark.skipif(not has_font(), reason="the emoji font is missing (fonts-noto-color-emoji)")
def test_upscaler_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(UPSCALER)
    command = ["mini", "upscaler", str(tmp_path / "small.yaml"), "-o", str(tmp_path / "runs")]
    assert run(command) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "runs" / "small" / "upscaler"
    assert load_file(folder / "diffusion_pytorch_model.safetensors")
    assert run(command) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0


@pytest.mark.parametrize("part", ["upscaler", "text-encoder"])
def test_unknown_key_is_refused(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("stepz: 1\n")
    assert run(["mini", part, str(tmp_path / "bad.yaml"), "-o", str(tmp_path)]) == 2
    assert "unknown key 'stepz'" in capsys.readouterr().err
