"""Metrics of sets of videos and of motion: closed forms and hand-worked cases; tiny networks of transformers."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerflow.evaluation import retrieval
from layerflow.evaluation import video_metrics as video


def gaussian(mean: Tensor, deviation: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return samples with exactly this mean and diagonal covariance."""
    draw = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draw = draw - draw.mean(0)
    white = draw @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(draw.T))).T
    return mean + white * deviation


def test_frechet_distance_of_normal_distributions() -> None:
    means = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], dtype=torch.float64)
    spreads = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]], dtype=torch.float64)
    one, other = (gaussian(m, s, 50, seed) for seed, (m, s) in enumerate(zip(means, spreads, strict=True)))
    # Of independent coordinates: squared differences of means and of deviations.
    expected = 9 + 0 + 4 + 1 + 0 + 4
    assert video.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    # Covariances that do not commute: tr (C1^1/2 C2 C1^1/2)^1/2 of 2x2 matrices is sqrt(tr + 2 sqrt(det)).
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    a = gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 1.0]), 40)
    b = gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 2.0]), 40, 1) @ turn.T
    product = torch.cov(a.T) @ torch.cov(b.T)
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    assert video.frechet_distance(a, b) == pytest.approx(10 + 5 - 2 * root, rel=1e-9)
    with pytest.raises(ValueError, match="at least 2 samples"):
        video.frechet_distance(a[:1], b)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20))
def test_frechet_distance_is_symmetric_and_zero_for_equal_sets(seed: int) -> None:
    draw = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))  # fewer samples than features
    assert video.frechet_distance(draw[0], draw[1]) == pytest.approx(video.frechet_distance(draw[1], draw[0]), rel=1e-6)
    assert video.frechet_distance(draw[0], draw[0]) == pytest.approx(0, abs=1e-5)


def moving(step: float, seed: int = 0, frames: int = 5) -> Tensor:
    """Return a smooth texture that moves to the right by whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 32, generator=generator), (64, 128), mode="bicubic")[0]
    return torch.stack([wide[..., 32 - round(step * i) : 96 - round(step * i)] for i in range(frames)]).clamp(0, 1)


def test_video_distance_grows_with_difference_and_takes_any_features() -> None:
    real = [moving(2, seed) for seed in range(4)]
    near = [moving(2, seed) + 0.02 for seed in range(4)]
    far = [torch.full_like(clip, 0.5) for clip in real]
    assert video.video_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert 0 < video.video_distance(near, real) < video.video_distance(far, real)
    # With one feature, the mean: squared difference of means and of deviations.
    flat = [torch.full((2, 3, 4, 4), value) for value in (0.1, 0.3)]
    other = [torch.full((2, 3, 4, 4), value) for value in (0.5, 0.9)]
    expected = (0.7 - 0.2) ** 2 + (0.4 - 0.2) ** 2 / 2
    assert video.video_distance(flat, other, lambda clip: clip.mean().view(1)) == pytest.approx(expected, rel=1e-5)


def test_temporal_consistency_to_first_and_previous_frame() -> None:
    turns = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    frames = torch.zeros(3, 3, 2, 2)
    # To the first: 0 and 1; to the one before: 0 and 0.
    assert video.temporal_consistency(frames, lambda _: turns) == pytest.approx(0.25)
    assert video.temporal_consistency(frames[:1]) == 1
    assert video.temporal_consistency(moving(0)) == pytest.approx(1)
    assert video.temporal_consistency(moving(1)) > video.temporal_consistency(moving(6))


def test_motion_smoothness_interpolates_every_second_frame() -> None:
    even = torch.linspace(0, 0.8, 5).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    assert video.motion_smoothness(even) == pytest.approx(1)
    blinking = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert video.motion_smoothness(blinking) == 0
    assert video.motion_smoothness(blinking, lambda before, after: before + 0.75) == pytest.approx(0.75)
    assert video.motion_smoothness(blinking[:2]) == 1


def test_dynamic_degree_is_the_share_of_moving_clips() -> None:
    flow = torch.zeros(7, 2, 64, 64)
    assert not video.is_dynamic(flow)
    flow[:2, 0, :, :4] = 2.0  # a sixteenth of the picture, 2 pixels of 64 are 8 of 256; two of eight frames
    assert video.motion_amount(flow).tolist() == [2, 2, 0, 0, 0, 0, 0]
    assert video.is_dynamic(flow)
    flow[1] = 0
    assert not video.is_dynamic(flow)
    clips = [moving(4), moving(0), moving(4)[:1]]
    assert video.dynamic_degree(clips) == pytest.approx(1 / 3)


def test_motion_flow_recovers_a_translation() -> None:
    flow = video.motion_flow(moving(3))
    assert float(flow[:, 0, 16:48, 16:48].median()) == pytest.approx(3, abs=0.3)
    assert float(flow[:, 1, 16:48, 16:48].abs().median()) < 0.3


def test_load_features_from_a_folder(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    VideoMAEModel(config).save_pretrained(tmp_path / "features")
    features = video.load_features(str(tmp_path / "features"))
    assert features(moving(2)).shape == (8,)
    assert not torch.allclose(features(moving(2)), features(moving(2, seed=1)))
    assert torch.equal(video.load_features("random")(moving(2)), video.RandomFeatures()(moving(2)))
    with pytest.raises(ValueError, match="no VideoMAE model could be loaded"):
        video.load_features(str(tmp_path / "nothing"))


def test_retrieval_compares_with_prompts_of_other_texts() -> None:
    prompts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    layers = torch.tensor([[2.0, 0.1], [3.0, 1.0], [1.0, 0.0]])
    # The third prompt has the words of the first, so the two do not compete.
    assert retrieval.retrieved(layers, prompts, ["a fox", "a hill", "a fox"]) == [True, False, True]


def test_load_embedder_from_a_folder(tmp_path: Path) -> None:
    import json

    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}{end}" for letter in "afoxhil" for end in ("", "</w>"))]
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {**tiny, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 20}
    config = CLIPConfig(text_config=text, vision_config={**tiny, "image_size": 16, "patch_size": 8}, projection_dim=4)
    CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=20)
    size = {"height": 16, "width": 16}
    CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size), tokenizer).save_pretrained(folder)
    embed = retrieval.load_embedder(str(folder))
    layers, prompts = embed([moving(1), moving(1, seed=1)], ["a fox", "a hill"])
    assert layers.shape == prompts.shape == (2, 4)
    with pytest.raises(ValueError, match="no CLIP model could be loaded"):
        retrieval.load_embedder(str(tmp_path / "nothing"))
