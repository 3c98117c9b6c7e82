"""Python in README and docs/usage.md, as it is printed there, in a process that imported nothing before."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_snippets_run(page: str, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL))
    assert "upscale=4" in code
    quick = code.replace("upscale=4", "num_inference_steps=1")
    if "Given" in code:
        quick += "\nassert (layers.alpha[0] == matte).all()\n"
    done = subprocess.run([sys.executable, "-c", quick], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "python" / "layers.json").exists()
