"""Shared by all tests: a model with random weights, small enough to run in a moment; no font, no scenes."""

import os
import tempfile
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path

import hypothesis
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer

from layerflow import LayerFlowPipeline
from layerflow.core.schema import model_clips
from layerflow.mini.network.text_encoder import LayerTextEncoder
from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.mini.world import MissingFontError

# These networks are too small for threads, and `make test` has a process for each of two cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

LONG = (
    "test_browser.py", "test_stages.py", "test_training.py", "test_batch.py", "test_several_processes.py",
    "test_placement.py", "test_fit_sketch.py", "test_plan.py", "test_training_plan.py", "test_build.py",
    "test_ablation.py", "test_distributed.py", "test_precompute.py", "test_pipeline.py", "test_cli.py",
    "test_examples.py",
)  # fmt: skip
"""The longest files, which come first so that both processes end at about the same time."""
TINY_MODEL = tempfile.TemporaryDirectory(prefix="layerflow-tiny-")
os.environ["LAYERFLOW_TINY_MODEL"] = TINY_MODEL.name  # for recipes, also in processes that tests start
TOKENIZER = Path(str(files("layerflow") / "mini" / "weights" / "tokenizer"))


def skip_without_font() -> Generator[None, None, None]:
    """Skip tests that draw scenes if the emoji font is missing; never in CI, which installs it."""
    try:
        return (yield)
    except MissingFontError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    return (yield from skip_without_font())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    return (yield from skip_without_font())


def build_tiny_pipeline(foregrounds: int = 1) -> LayerFlowPipeline:
    """Build a complete pipeline with seeded random weights: 16x16 pixels, 2 frames."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = LayerTextEncoder(
            projection_dim=24,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
        transformer = CompactTransformer3DModel(
            clips=model_clips(foregrounds),
            widths=(8, 8, 8),
            blocks_up=(1, 1, 1),
            dim=16,
            num_layers=1,
            num_heads=2,
            cond_dim=16,
            sketch_width=16,
            fill_width=8,
            text_dim=24,
            sample_size=16,
            sample_frames=2,
        )
        for parameter in transformer.parameters():  # new networks predict nothing; let these predict something
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    pipeline = LayerFlowPipeline(
        AutoTokenizer.from_pretrained(TOKENIZER),
        text_encoder.eval(),
        transformer.eval(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def tiny_pipeline() -> LayerFlowPipeline:
    """A new pipeline for each test, which may change it."""
    return build_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two foregrounds; read only."""
    folder = tmp_path_factory.mktemp("tiny-stack")
    build_tiny_pipeline(foregrounds=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def tiny_model() -> Path:
    """A model folder in diffusers layout; read only."""
    folder = Path(TINY_MODEL.name)
    build_tiny_pipeline().save_pretrained(folder)
    return folder
