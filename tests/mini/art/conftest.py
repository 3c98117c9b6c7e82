"""Made-up art for the tests of the atlas."""

from pathlib import Path

import pytest
from made_up_art import write_art


@pytest.fixture
def art(tmp_path: Path) -> Path:
    """Folder of made-up art."""
    folder = tmp_path / "art"
    write_art(folder)
    return folder
