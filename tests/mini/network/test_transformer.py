"""The compact backbone: shapes, conditions, saving."""

from pathlib import Path

import pytest
import torch

from layerflow.mini.network.transformer import CompactTransformer3DModel
from layerflow.models.layout import Layout

FRAMES = 3


@pytest.fixture
def model() -> CompactTransformer3DModel:
    torch.manual_seed(0)
    model = CompactTransformer3DModel(
        widths=(8, 8, 8),
        blocks_up=(1, 1, 1),
        dim=16,
        num_layers=2,
        num_heads=2,
        cond_dim=16,
        sketch_width=16,
        fill_width=8,
        text_dim=12,
        sample_size=32,
        sample_frames=FRAMES,
    )
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def inputs(batch: int = 2, size: int = 32) -> dict:
    generator = torch.Generator().manual_seed(1)
    layout = Layout(FRAMES)
    mask = torch.ones(batch, 3, 5, dtype=torch.bool)
    mask[:, 1, 3:] = False
    return {
        "hidden_states": layout.noise(torch.zeros(batch, layout.length, 3, size, size), generator),
        "timestep": torch.rand(batch, 4, 1, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 3, 5, 12, generator=generator),
        "encoder_attention_mask": mask,
        "layout": layout,
    }


@pytest.mark.parametrize("size", [16, 32, 48])
def test_prediction_shape(model: CompactTransformer3DModel, size: int) -> None:
    values = inputs(size=size)
    assert model(**values).sample.shape == values["hidden_states"].shape


def test_indivisible_size(model: CompactTransformer3DModel) -> None:
    with pytest.raises(ValueError, match="20x20 pixels do not fit this backbone: both sides must divide by 16"):
        model(**inputs(size=20))


def test_conditions_change_the_prediction(model: CompactTransformer3DModel) -> None:
    base = model(**inputs()).sample
    for clip in range(4):
        changed = inputs()
        changed["timestep"][:, clip] = 0
        assert not torch.allclose(model(**changed).sample, base), f"timestep of clip {clip}"
    for layer in range(3):
        changed = inputs()
        changed["encoder_hidden_states"][:, layer, 0] += 1
        assert not torch.allclose(model(**changed).sample, base), f"prompt of layer {layer}"
    later = model(**inputs(), frame_positions=torch.tensor([[0, 1, 1]] * 2)).sample
    assert not torch.allclose(later, base)


def test_text_padding_is_ignored(model: CompactTransformer3DModel) -> None:
    changed = inputs()
    changed["encoder_hidden_states"][:, 1, 3:] = 7.0
    assert torch.allclose(model(**changed).sample, model(**inputs()).sample, atol=1e-5)


def test_samples_are_independent(model: CompactTransformer3DModel) -> None:
    values = inputs()
    alone = {k: v[:1] if torch.is_tensor(v) else v for k, v in values.items()}
    together, single = model(**values).sample[:1], model(**alone).sample
    assert float((together - single).abs().max()) < 1e-5 * float(single.std())  # round-off, in units of the sample


def test_frames_and_clips_attend_to_each_other(model: CompactTransformer3DModel) -> None:
    changed, layout = inputs(), Layout(FRAMES)
    changed["hidden_states"][:, layout.clip_slice("background")][:, 2] += 1
    before, after = (layout.unpack(model(**v).sample) for v in (inputs(), changed))
    for name in layout.clips:
        assert not torch.allclose(before[name][:, 0], after[name][:, 0]), name


def test_blended_is_the_composite_without_correction(model: CompactTransformer3DModel) -> None:
    torch.nn.init.zeros_(model.head.weight[-12:])  # the folded planes of blended come last: no correction
    torch.nn.init.zeros_(model.head.bias[-12:])
    clips = Layout(FRAMES).unpack(model(**inputs()).sample)
    assert torch.equal(clips["alpha"][:, :, 0], clips["alpha"][:, :, 2])
    over = clips["foreground"] + (0.5 - 0.5 * clips["alpha"]) * clips["background"]
    assert torch.allclose(clips["blended"], over, atol=1e-6)


def test_save_and_load(model: CompactTransformer3DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = CompactTransformer3DModel.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    # Another memory layout may change the order of summation.
    torch.testing.assert_close(loaded(**inputs()).sample, model(**inputs()).sample, atol=1e-4, rtol=1e-4)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
