"""What docs/studio.md tells programmers to write, run as it is written there against a studio on a socket."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from layerflow.generation.request import ModelOptions
from layerflow.studio.app import Settings, create_app
from layerflow.studio.entry_points import ModelStart
from layerflow.studio.server import bind

GUIDE = Path(__file__).parents[2] / "docs" / "studio.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[str]:
    app = create_app(Settings(tmp_path_factory.mktemp("studio"), ModelStart(ModelOptions(model=str(tiny_model)))))
    with bind("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["rest", "gradio"])
def test_snippets_of_the_guide_run(
    address: str, snippet: str, clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").write_bytes(clips["opaque.mp4"])
    assert "http://127.0.0.1:7860" in snippet
    exec(snippet.replace("http://127.0.0.1:7860", address), {})
    assert "done" in capsys.readouterr().out
    if "layers.zip" in snippet:
        assert Path("layers.zip").read_bytes().startswith(b"PK")
