"""Autoencoders of every family, at tiny random configurations."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX, AutoencoderKLWan

from layerflow.models.autoencoders import ClipAutoencoder

WAN = {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}


def build(family: str) -> ClipAutoencoder:
    torch.manual_seed(0)
    if family == "none":
        return ClipAutoencoder()
    if family == "cogvideox":
        vae = AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            sample_height=32,
            sample_width=32,
        )
    elif family == "wan2.1":
        mean, std = torch.randn(4).tolist(), (torch.rand(4) + 1).tolist()
        vae = AutoencoderKLWan(z_dim=4, latents_mean=mean, latents_std=std, **WAN)
    else:  # the autoencoder of Wan 2.2's 5B model: twice the compression in space, residual blocks
        vae = AutoencoderKLWan(
            z_dim=48,
            latents_mean=torch.randn(48).tolist(),
            latents_std=(torch.rand(48) + 1).tolist(),
            is_residual=True,
            patch_size=2,
            in_channels=12,
            out_channels=12,
            scale_factor_spatial=16,
            **WAN,
        )
    return ClipAutoencoder(vae.eval())


def clips(frames: int, number: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(number, frames, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


CASES = [
    ("wan2.1", 5, (2, 4, 4, 4)),
    ("wan2.1", 1, (1, 4, 4, 4)),
    ("wan2.2", 9, (3, 48, 2, 2)),
    ("cogvideox", 16, (4, 4, 4, 4)),
    ("cogvideox", 9, (3, 4, 4, 4)),
    ("cogvideox", 1, (1, 4, 4, 4)),
    ("none", 7, (7, 3, 32, 32)),
]
FAMILIES = [("wan2.1", 5), ("wan2.2", 5), ("cogvideox", 8)]


@pytest.mark.parametrize(("family", "frames", "latent"), CASES)
def test_clips_go_to_latents_of_the_promised_shape_and_back(family: str, frames: int, latent: tuple[int, ...]) -> None:
    autoencoder = build(family)
    latents = autoencoder.encode(clips(frames))
    assert latents.shape == (2, *latent)
    assert latent == (autoencoder.latent_frames(frames), autoencoder.latent_channels, *autoencoder.latent_size(32, 32))
    assert autoencoder.pixel_frames(latent[0]) == frames
    decoded = autoencoder.decode(latents)
    assert decoded.shape == (2, frames, 3, 32, 32)
    assert decoded.abs().max() <= 1


def test_without_an_autoencoder_clips_are_their_own_latents() -> None:
    values = clips(3)
    assert torch.equal(ClipAutoencoder().decode(ClipAutoencoder().encode(values)), values)


@pytest.mark.parametrize(("family", "frames"), FAMILIES)
def test_each_clip_is_encoded_and_decoded_on_its_own(family: str, frames: int) -> None:
    autoencoder, values = build(family), clips(frames, number=3)
    latents = autoencoder.encode(values)
    for i in range(3):
        assert torch.allclose(autoencoder.encode(values[i : i + 1]), latents[i : i + 1], atol=1e-5)
        assert torch.allclose(autoencoder.decode(latents[i : i + 1]), autoencoder.decode(latents)[i : i + 1], atol=1e-5)


@pytest.mark.parametrize(("family", "frames"), FAMILIES)
def test_latents_are_normalised_by_the_autoencoders_own_statistics(family: str, frames: int) -> None:
    autoencoder, values = build(family), clips(frames)
    vae, config = autoencoder.vae, autoencoder.vae.config
    with torch.no_grad():
        raw = vae.encode(values.transpose(1, 2)).latent_dist.mode()
    if family == "cogvideox":
        expected = raw * config.scaling_factor
    else:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        expected = (raw - mean) / std
    latents = autoencoder.encode(values)
    assert torch.allclose(latents, expected.transpose(1, 2), atol=1e-5)
    with torch.no_grad():
        plain = vae.decode(raw).sample.clamp(-1, 1).transpose(1, 2)
    assert torch.allclose(autoencoder.decode(latents), plain, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "frames", "message"),
    [
        ("wan2.1", 16, r"16 frames do not fit this model, which takes 4n \+ 1; the nearest: 13 or 17"),
        ("cogvideox", 12, r"12 frames do not fit this model, which takes 8n or 8n \+ 1; the nearest: 9 or 16"),
        ("cogvideox", 15, "the nearest: 9 or 16"),
        ("wan2.2", 0, "the nearest: 1$"),
        ("none", 0, "takes 1 or more; the nearest: 1$"),
    ],
)
def test_frames_that_would_not_come_back_are_an_error_that_names_the_nearest(
    family: str, frames: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(family).encode(clips(frames))


def test_a_size_that_does_not_divide_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"40x40 pixels .* must divide by 16; the nearest is 32x32"):
        build("wan2.2").encode(clips(5, size=40))


def test_without_a_generator_encoding_draws_nothing_and_with_one_it_repeats() -> None:
    autoencoder, values = build("wan2.1"), clips(5)
    drawn = [autoencoder.encode(values, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert torch.equal(autoencoder.encode(values), autoencoder.encode(values))
    assert not torch.allclose(drawn[0], autoencoder.encode(values))


def test_cogvideox_clips_are_not_cut_in_time_unless_asked_to() -> None:
    vae, values = build("cogvideox").vae, clips(16)
    whole, groups = ClipAutoencoder(vae).encode(values), ClipAutoencoder(vae, frame_groups=True).encode(values)
    assert whole.shape == groups.shape
    assert not torch.allclose(whole, groups, atol=1e-3)
    assert (vae.num_sample_frames_batch_size, vae.num_latent_frames_batch_size) == (8, 2)  # left as they were


@pytest.mark.parametrize("switch", ["slicing", "tiling"])
@pytest.mark.parametrize(("family", "frames"), FAMILIES)
def test_slicing_and_tiling_of_the_autoencoder_are_really_taken(
    family: str, frames: int, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder = build(family)
    values = clips(frames, size=64)
    expected = autoencoder.encode(values)
    sizes = []
    if switch == "slicing":
        autoencoder.vae.enable_slicing()
    elif family == "cogvideox":
        autoencoder.vae.enable_tiling(48, 40)  # its overlaps of 1/6 and 1/5 must come out in whole latents
    else:
        autoencoder.vae.enable_tiling(32, 32, 16, 16)
    encoder = autoencoder.vae.encoder
    encoder.register_forward_pre_hook(lambda _, args: sizes.append((args[0].shape[0], args[0].shape[-1])))
    latents = autoencoder.encode(values)
    full = 32 if family == "wan2.2" else 64  # that one folds 2x2 pixels into channels first
    assert latents.shape == expected.shape
    if switch == "slicing":
        assert set(sizes) == {(1, full)}
        assert torch.allclose(latents, expected, atol=1e-5)
    else:
        assert min(width for _, width in sizes) < full
    assert autoencoder.decode(latents).shape == values.shape


def test_another_autoencoder_is_an_error_that_names_those_that_fit() -> None:
    with pytest.raises(TypeError, match="AutoencoderKL is not known; give an AutoencoderKLWan"):
        ClipAutoencoder(AutoencoderKL(norm_num_groups=32))
