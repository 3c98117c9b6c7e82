"""Numbers of the official code against ours, through the converter: every case found in the parity folder.

The folder is `shared/parity` beside the repository, or what LAYERFLOW_PARITY names: `NAME.safetensors` with arrays and
`NAME.json`, which says what they are. Tolerances are largest absolute differences in float32, as its README has them.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from layerflow.core.schema import TASKS
from layerflow.models.cogvideox.conversion import CHECKPOINT, convert
from layerflow.models.cogvideox.official import CONFIGURATIONS, NETWORK, OfficialConfiguration, convert_autoencoder
from layerflow.models.cogvideox.sampler import DynamicGuidance, LayerFlowDPMScheduler
from layerflow.models.cogvideox.transformer import CogVideoXLayerTransformer3DModel
from layerflow.models.given import Clean
from layerflow.models.layout import Layout
from layerflow.pipeline import LayerFlowPipeline

FOLDER = Path(os.environ.get("LAYERFLOW_PARITY") or Path(__file__).parents[3] / "shared" / "parity")
NETWORK_TOLERANCE, SAMPLER_TOLERANCE, SAMPLE_TOLERANCE, VAE_TOLERANCE = 1e-4, 1e-5, 5e-4, 1e-4


@dataclass
class Case:
    """One recorded case."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]:
        """The official state dict, in float32."""
        return {k.removeprefix("sd."): v.float() for k, v in self.tensors.items() if k.startswith("sd.")}


def kind_of(info: dict[str, Any]) -> str:
    """Return the kind of a case by its JSON."""
    if "network_target" in info:
        return "network"
    if "sampler" in info:
        return "sampler"
    return "autoencoder" if "ch_mult" in info.get("config", {}) else "unknown"


def cases(kind: str) -> list[Any]:
    """Return parameters for a test: paths of the cases of one kind, or one that skips with a reason."""
    if not FOLDER.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(f"no parity data: {FOLDER} is not there"))]
    found = [path for path in sorted(FOLDER.glob("*.json")) if kind_of(json.loads(path.read_text())) == kind]
    skip = pytest.mark.skip(f"no {kind} case in {FOLDER}")
    return [pytest.param(path, id=path.stem) for path in found] or [pytest.param(None, marks=skip)]


def load_case(path: Path) -> Case:
    return Case(path.stem, json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")))


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    assert ours.shape == theirs.shape, what
    error = float((ours.float() - theirs.float()).abs().max())
    print(f"{what}: {error:.1e}")
    assert error < tolerance, f"{what}: {error:.2e}, allowed {tolerance:.0e}"


def test_every_case_is_of_a_known_kind() -> None:
    if not FOLDER.is_dir():
        pytest.skip(f"no parity data: {FOLDER} is not there")
    unknown = [path.name for path in FOLDER.glob("*.json") if kind_of(json.loads(path.read_text())) == "unknown"]
    assert not unknown


@dataclass
class Converted:
    """A network case and the model converted from it, LoRA adapters loaded."""

    case: Case
    configuration: OfficialConfiguration
    model: CogVideoXLayerTransformer3DModel
    layout: Layout
    given: Tensor
    """Bool (N,): latent frames that are conditions."""

    def switch(self, scale: float) -> None:
        """Set the motion LoRA to `scale` and the content LoRA on, as far as the case has them."""
        there = [name for name in ("motion", "content") if name in getattr(self.model, "peft_config", {})]
        if there:
            self.model.set_adapters(there, [scale if name == "motion" else 1.0 for name in there])

    def predict(self, x: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None) -> Tensor:
        """Return the prediction for the noisy frames, as the official wrapper gives it."""
        sequence = x.new_zeros(x.shape[0], self.layout.length, *x.shape[2:])
        sequence[:, ~self.given] = x
        if condition is not None:
            sequence[:, self.given] = condition
        levels = (timesteps / 1000)[:, None, None].expand(-1, len(self.layout.clips), 1)
        text = context.unflatten(0, (x.shape[0], -1))
        return self.model(sequence, levels, text, None, self.layout).sample[:, ~self.given]

    def inputs(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the recorded inputs of some rows of the batch."""
        tensors = self.case.tensors
        context = tensors["context"].unflatten(0, (len(tensors["x"]), -1))[rows].flatten(0, 1)
        condition = tensors["cond_input"][rows] if "cond_input" in tensors else None
        return tensors["x"][rows], tensors["timesteps"][rows], context, condition


@pytest.fixture(scope="module")
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    """Write the case as an official checkpoint, convert it, and load the result."""
    case = load_case(request.param)
    official = re.search(r"stage2_(\w+)\.yaml", case.info["shrinks"])
    assert official is not None
    configuration = next(one for one in CONFIGURATIONS if one.name == official[1])
    folder = tmp_path_factory.mktemp(case.name)
    state = {name if name.startswith(NETWORK) else NETWORK + name: value for name, value in case.state.items()}
    torch.save({"module": state}, folder / CHECKPOINT)
    size = case.info["config"]["latent_height"], case.info["config"]["latent_width"]
    made = convert(folder, folder / "model", task=configuration.task, latent_size=size)
    assert made.configuration == configuration
    model = CogVideoXLayerTransformer3DModel.from_pretrained(made.folder / "transformer").eval()
    for adapter in (made.folder / "adapters").glob("*"):
        model.load_lora_adapter(adapter, adapter_name=adapter.name, use_safetensors=True)
    layout = Layout(model.config.sample_frames, tuple(model.config.clips), model.config.lead_frames)
    given = torch.zeros(layout.length, dtype=torch.bool)
    given[slice(*(model.config.given_frames or (0, 0)))] = True
    assert int(given.sum()) == case.info["task"]["condition_latent_frames"]
    assert int((~given).sum()) == case.info["task"]["noisy_latent_frames"]
    with torch.no_grad():
        yield Converted(case, configuration, model, layout, given)


networks = pytest.mark.parametrize("converted", cases("network"), indirect=True, scope="module")


@networks
def test_network_output_with_the_motion_lora_off_and_on(converted: Converted) -> None:
    tensors = converted.case.tensors
    for scale in (0, 1):
        converted.switch(scale)
        out = converted.predict(*converted.inputs())
        assert_close(out, tensors[f"out_scale{scale}"], NETWORK_TOLERANCE, f"out_scale{scale}")


@networks
def test_network_output_with_a_motion_scale_per_sample(converted: Converted) -> None:
    tensors = converted.case.tensors
    for name, scales in (("out_scale01", (0.0, 1.0)), ("out_scale_tensor", (0.35,))):
        for row, scale in enumerate(scales if name in tensors else ()):
            converted.switch(scale)
            out = converted.predict(*converted.inputs(slice(row, row + 1)))
            assert_close(out, tensors[name][row : row + 1], NETWORK_TOLERANCE, f"{name} row {row}")


@networks
def test_clean_prediction(converted: Converted) -> None:
    tensors = converted.case.tensors
    converted.switch(0)
    scheduler = LayerFlowDPMScheduler()
    alphas = scheduler.alphas_cumprod.sqrt()[tensors["timesteps"].long()].float()
    assert_close(alphas, tensors["denoiser_alpha"].flatten(), 1e-6, "denoiser_alpha")
    out, alpha = converted.predict(*converted.inputs()), alphas.view(-1, 1, 1, 1, 1)
    clean = tensors["x"] * alpha - out * (1 - alpha**2).sqrt()
    assert_close(clean, tensors["denoised_scale0"], NETWORK_TOLERANCE, "denoised_scale0")


@networks
def test_token_states(converted: Converted) -> None:
    tensors, model = converted.case.tensors, converted.model
    recorded = {name.removeprefix("inter."): value for name, value in tensors.items() if name.startswith("inter.")}
    if not recorded:
        pytest.skip("this case has no token states")
    states: dict[str, Tensor] = {}

    def tokens(video: Tensor, text: Tensor) -> Tensor:
        whole = torch.cat([text, video], dim=1)[-1:]
        return whole[:, ::7]

    hooks = [
        model.time_embedding.register_forward_hook(lambda _, __, out: states.update(time_embed=out[-1:])),
        model.patch_embed.register_forward_hook(lambda _, __, out: states.update(hidden_embed=tokens(out[1], out[0]))),
    ]
    for i, block in enumerate(model.transformer_blocks):
        hooks.append(
            block.register_forward_hook(lambda _, __, out, i=i: states.update({f"hidden_layer_{i}": tokens(*out)}))
        )
    try:
        converted.switch(0)
        converted.predict(*converted.inputs())
    finally:
        for hook in hooks:
            hook.remove()
    states["hidden_final_norm"] = model.norm_final(states[f"hidden_layer_{len(model.transformer_blocks) - 1}"])
    assert set(recorded) == set(states)
    for name, value in recorded.items():
        assert_close(states[name], value, NETWORK_TOLERANCE, name)


@networks
def test_guided_sampling(converted: Converted) -> None:
    tensors = converted.case.tensors
    if "sample_final" not in tensors:
        pytest.skip("this case has no sampling run")
    converted.switch(0)
    scheduler, guider, steps = LayerFlowDPMScheduler(), DynamicGuidance(), len(tensors["sample_timesteps"])
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == tensors["sample_timesteps"].long().tolist()
    assert_close(scheduler.sampler_alphas, tensors["sample_alphas"], 1e-6, "sample_alphas")
    for step, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step, steps, timestep)
        assert guider.guidance_scale == pytest.approx(float(tensors["sample_guidance_scale"][step]), abs=1e-5)

    # The pipeline itself, with recorded text states, noise and given latents in place of its own.
    _, _, context, condition = converted.inputs(slice(-1, None))
    given = converted.given[None, :, None, None, None]

    def whole(generated: Tensor, clean: Tensor | None = None) -> Tensor:
        sequence = generated.new_zeros(1, converted.layout.length, *generated.shape[2:])
        sequence[:, ~converted.given] = generated
        if clean is not None:
            sequence[:, converted.given] = clean
        return sequence

    class RecordedNoise(LayerFlowDPMScheduler):
        def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **kwargs: Any) -> Any:
            index = self.index_for_timestep(timestep)
            noise = whole(tensors["sample_step_noise"][index]) if index < steps - 1 else None
            return super().step(model_output, timestep, sample, variance_noise=noise, return_dict=False)

    pipeline = LayerFlowPipeline(None, None, converted.model, RecordedNoise())  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    pipeline.check_inputs = lambda *_: [[]]  # type: ignore[method-assign]
    text = context.unflatten(0, (1, -1))
    mask = torch.ones(text.shape[:3], dtype=torch.bool)
    pipeline.prepare_text = lambda *_: ((text, mask), (torch.zeros_like(text), mask))  # type: ignore[method-assign]
    names = TASKS[converted.configuration.task]
    start = tensors["sample_init_noise"]

    class RecordedLayout(Layout):
        def noise(self, *_: Any) -> Tensor:
            return whole(start)

    layout = RecordedLayout(converted.layout.frames, converted.layout.clips, converted.layout.lead)
    pipeline.check_size = lambda *_: (layout, 0, 0, 0)  # type: ignore[method-assign]
    clips = converted.layout.given_mask([name for name in names if name in converted.layout.clips])
    clean = Clean(whole(torch.zeros_like(start), condition), clips[None], given)
    pipeline.prepare_given = lambda *_: clean  # type: ignore[method-assign]
    latents = pipeline(num_inference_steps=steps, output_type="latent").videos
    assert_close(latents[:, ~converted.given], tensors["sample_final"], SAMPLE_TOLERANCE, "sample_final")


@pytest.mark.parametrize("path", cases("sampler"))
def test_sampler_trace(path: Path) -> None:
    case = load_case(path)
    runs = sorted({name.split(".")[0] for name in case.tensors if name.startswith("steps")})
    assert runs
    for run in runs:
        recorded = {name.removeprefix(f"{run}."): value for name, value in case.tensors.items() if name.startswith(run)}
        steps = len(recorded["timesteps"])
        scheduler, guider = LayerFlowDPMScheduler(), DynamicGuidance()
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == recorded["timesteps"].long().tolist()
        table = scheduler.alphas_cumprod.sqrt()
        assert_close(table, case.tensors["table1000_alphas"], 1e-6, "table1000_alphas")
        assert_close(scheduler.sampler_alphas, recorded["sampler_alphas"], 1e-6, f"{run} sampler_alphas")
        assert_close(scheduler.denoiser_alphas, recorded["denoiser_alphas"], 1e-6, f"{run} denoiser_alphas")

        x, cond = recorded["init_noise"], recorded["cond"]
        for step, timestep in enumerate(scheduler.timesteps):
            guider.set_state(step, steps, timestep)
            scale = float(recorded["guidance_scale"][step])
            assert guider.guidance_scale == pytest.approx(scale, abs=1e-5)
            toy = [
                torch.tanh(0.3 * x) + 0.1 * given + 0.05 * torch.cos(0.01 * timestep)
                for given in (cond, torch.zeros_like(cond))
            ]
            guided = guider.forward(*toy[: guider.num_conditions]).pred
            noise = recorded["noise_used"][step] if step < steps - 1 else None
            out = scheduler.step(guided, timestep, x, variance_noise=noise)
            x = out.prev_sample
            clean = recorded["denoised_guided"][step]
            assert_close(out.pred_original_sample, clean, SAMPLER_TOLERANCE, f"{run} clean {step}")
            assert_close(x, recorded["x_after_step"][step], SAMPLER_TOLERANCE, f"{run} x after {step}")
        assert_close(x, recorded["final"], SAMPLER_TOLERANCE, f"{run} final")


@pytest.mark.parametrize("path", cases("autoencoder"))
@torch.no_grad()
def test_autoencoder(path: Path) -> None:
    case = load_case(path)
    vae = convert_autoencoder(case.state)
    assert vae.config.scaling_factor == case.info["config"]["scale_factor"]
    # The official code takes a sequence in one go, without the groups of frames that are diffusers' default.
    vae.num_sample_frames_batch_size = vae.num_latent_frames_batch_size = 1000
    lengths = [name.split(".")[0] for name in case.tensors if name.endswith(".input")]
    assert lengths
    for length in lengths:
        video = case.tensors[f"{length}.input"].float()
        latents = vae.encode(video).latent_dist
        assert_close(latents.parameters, case.tensors[f"{length}.moments"], VAE_TOLERANCE, f"{length} moments")
        decoded = vae.decode(latents.mode()).sample
        assert_close(decoded, case.tensors[f"{length}.decoded"], VAE_TOLERANCE, f"{length} decoded")
    if "dup.moments" in case.tensors:
        video = case.tensors["T16.input"].float()
        latents = vae.encode(torch.cat([video[:, :, :1], video], dim=2)).latent_dist
        assert_close(latents.parameters, case.tensors["dup.moments"], VAE_TOLERANCE, "first frame doubled")
