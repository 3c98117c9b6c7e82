"""Shared by the tests of the evaluation: the marker `real_scenes`, and a tiny judge."""

import os

import pytest

from layerflow.mini.acceptance import Judge, JudgeConfig
from layerflow.mini.world import MissingFontError, find_font

TINY = JudgeConfig(
    size=16, widths=(4, 8), stills=24, foreground_epochs=1, background_epochs=1, leak_epochs=1, batch_size=8
)


def _font_is_missing() -> bool:
    try:
        find_font()
    except MissingFontError:
        return True
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # In CI a missing font is a failure, not a reason to skip.
    if _font_is_missing() and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("real_scenes"):
                item.add_marker(pytest.mark.skip(reason="NotoColorEmoji.ttf is not installed"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_scenes: draws scenes, so it needs the emoji font")


@pytest.fixture
def tiny_config() -> JudgeConfig:
    return TINY


@pytest.fixture(scope="session")
def untrained_judge() -> Judge:
    return Judge(TINY)
