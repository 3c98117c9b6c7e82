"""The training loop: noise what is generated, keep what is given, learn the clean clips.

One step is a pure function of the state and the step's number, so that a resumed run continues bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase

from ..data import SceneSource
from ..evaluation.metrics import alpha_iou
from ..files import whole_folder
from ..loading import find_model
from ..models.compact import CompactTransformer3DModel
from ..models.layout import LAYERS
from ..models.sketch import sketch_error, sketch_targets
from ..models.text import LayerTextEncoder, encode_prompts, load_text_encoder, pool
from ..pipeline import LayerFlowPipeline
from .batches import Batch, SceneBatches, draw_noise_levels
from .checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from .fill import fit_fill
from .optimizer import MuonAdamW, parameter_groups
from .recipe import Recipe, RecipeError
from .sketch import fit_sketch

Report = Callable[[int, dict[str, float]], None]


def encode_batch(pipeline: LayerFlowPipeline, prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
    """B x L prompts to states (B, L, S, D) and mask (B, L, S); equal prompts are encoded once.

    Nothing is kept from step to step: a state's last bits depend on the prompts it is encoded with, and a resumed
    run must see the same bits.
    """
    flat = [prompt for sample in prompts for prompt in sample]
    different = list(dict.fromkeys(flat))
    states, mask = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, different)
    rows = torch.tensor([different.index(prompt) for prompt in flat], device=states.device)
    shape = (len(prompts), len(prompts[0]))
    return states[rows].unflatten(0, shape), mask[rows].unflatten(0, shape)


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, then a cosine over the last share `decay` of the steps, to a fiftieth."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    start = recipe.steps * (1 - recipe.decay)
    progress = max(0.0, (step - start) / max(1.0, recipe.steps - start))
    return recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def add_noise(batch: Batch, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Noised sequence (B, K*F, C, H, W), given clips clean, and the timestep of each clip (B, K)."""
    timestep = batch.layout.timesteps(t, batch.given)
    level = batch.layout.per_frame(timestep)
    return (1 - level) * batch.sequence + level * noise, timestep


def clip_errors(prediction: Tensor, batch: Batch) -> Tensor:
    """Weighted mean squared error of the clean prediction per sample and clip: (B, K)."""
    layout = batch.layout
    error = (prediction.float() - batch.sequence).square().unflatten(1, (len(layout.clips), layout.frames))
    return (error * batch.weight).mean((2, 3, 4, 5)) / batch.weight.mean((2, 3, 4, 5))


def loss_of(errors: Tensor, batch: Batch, t: Tensor, recipe: Recipe) -> Tensor:
    """Errors of generated clips, weighted by noise level, averaged over clips and samples."""
    generated = (~batch.given).to(errors.dtype)
    weight = t.pow(-2).clamp(max=recipe.noise.max_weight)
    return ((errors * generated).sum(1) / generated.sum(1) * weight).mean()


class Trainer:
    """One run of a recipe in its folder: checkpoints/, samples/, logs for TensorBoard, and the model at the end."""

    def __init__(self, recipe: Recipe, output: Path, resume: bool = False, report: Report | None = None) -> None:
        self.recipe, self.folder, self.report = recipe, Path(output) / recipe.name, report
        found = list_checkpoints(self.folder / "checkpoints")
        if found and not resume:
            raise RecipeError(
                f"{self.folder} holds a run already (step {int(found[-1].name.split('-')[1])}); continue it with "
                "--resume, or choose another --output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        set_seed(recipe.seed)
        self.accelerator = Accelerator(mixed_precision=recipe.precision)
        self.pipeline = build_pipeline(recipe, fit=not found, report=report)
        self.device = self.accelerator.device
        model = self.pipeline.transformer.to(self.device, memory_format=torch.channels_last).train()
        groups = parameter_groups(model.named_parameters(), recipe.weight_decay)
        optimizer = MuonAdamW(groups, lr=recipe.learning_rate)
        self.ema = EMAModel(
            model.parameters(), decay=recipe.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.pipeline.text_encoder.to(self.device)
        self.writer = SummaryWriter(str(self.folder / "logs"))
        self.step = 0
        if found:
            self._restore(found[-1])

    def train(self, until: int | None = None) -> None:
        """Train to the recipe's last step, or to step `until`."""
        recipe, last = self.recipe, min(until or self.recipe.steps, self.recipe.steps)
        batches = DataLoader(
            SceneBatches(recipe), batch_size=None, sampler=range(self.step, last), num_workers=recipe.workers,
            prefetch_factor=4 if recipe.workers else None, worker_init_fn=_one_thread,
        )  # fmt: skip
        meters: dict[str, list[float]] = {}
        ready = time.perf_counter()
        for batch in batches:
            start = time.perf_counter()
            for name, value in self.train_step(batch).items():
                meters.setdefault(name, []).append(value)
            frames = batch.positions.numel()
            now = time.perf_counter()
            meters.setdefault("speed/frames_per_second", []).append(frames / (now - ready))
            meters.setdefault("speed/waited_for_data", []).append((start - ready) / (now - ready))
            ready = now
            self.step += 1
            if self.step % recipe.log_every == 0 or self.step == last:
                means = {name: sum(values) / len(values) for name, values in meters.items()}
                self._log({**means, "learning_rate": learning_rate_at(recipe, self.step - 1)})
                meters.clear()
            if self.step % recipe.checkpoint_every == 0 or self.step == last:
                self.save()
            if self.step % recipe.sample_every == 0:
                self.sample()
            if self.step % recipe.checkpoint_every == 0 or self.step % recipe.sample_every == 0:
                ready = time.perf_counter()
        self.writer.flush()
        if self.step == recipe.steps:
            self.export(self.folder / "model")

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns what to log."""
        recipe, device = self.recipe, self.device
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        t = draw_noise_levels(recipe, len(batch.tasks), generator)
        noise = batch.layout.noise(batch.sequence, generator)
        batch = Batch(
            batch.sequence.to(device), batch.given.to(device), batch.positions.to(device), batch.weight.to(device),
            batch.prompts, batch.tasks,
        )  # fmt: skip
        t = t.to(device)
        noised, timestep = add_noise(batch, t, noise.to(device))
        text, mask = encode_batch(self.pipeline, batch.prompts)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, self.step)
        with self.accelerator.autocast():
            output = self.forward(noised, timestep, text, mask, batch.layout, batch.positions)
        prediction = output.sample
        errors = clip_errors(prediction, batch)
        of_sketch = sketch_error(output.sketch, sketch_targets(batch.sequence, batch.layout))
        loss = loss_of(errors, batch, t, recipe) + recipe.sketch_weight * of_sketch
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.model.parameters())
        if not math.isfinite(float(norm)):
            raise RuntimeError(f"the gradient is not finite at step {self.step}; lower learning_rate and --resume")
        scalars = {"loss": loss, "error/sketch": of_sketch, "gradient_norm": norm}
        values = {name: float(value.detach()) for name, value in scalars.items()}
        return values | self._meters(batch, prediction.detach(), errors.detach(), t)

    def _meters(self, batch: Batch, prediction: Tensor, errors: Tensor, t: Tensor) -> dict[str, float]:
        values = {}
        generated = ~batch.given
        for column, clip in enumerate(batch.layout.clips):
            if generated[:, column].any():
                values[f"error/{clip}"] = float(errors[generated[:, column], column].mean())
        pure = torch.tensor([task == "decompose" for task in batch.tasks], device=t.device) & (t == 1)
        if pure.any():  # what decides: matte found from pure noise, not read out of a half-noised one
            where = batch.layout.clip_slice("alpha")
            pairs = zip(prediction[pure][:, where], batch.sequence[pure][:, where], strict=True)
            ious = [alpha_iou(found, true, threshold=0) for found, true in pairs]
            values["decompose/alpha_iou_from_pure_noise"] = sum(ious) / len(ious)
        return values

    def save(self) -> Path:
        """Write a checkpoint, whole or not at all."""
        model = self.accelerator.unwrap_model(self.model)
        tensors = {
            "model": model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return save_checkpoint(self.folder / "checkpoints", self.step, tensors, {"recipe": self.recipe.to_dict()})

    def _restore(self, path: Path) -> None:
        state, info = load_checkpoint(path)
        model = self.accelerator.unwrap_model(self.model)
        model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = info["step"]

    def averaged(self) -> LayerFlowPipeline:
        """The pipeline with the averaged weights in a network of its own."""
        model = CompactTransformer3DModel.from_config(self.pipeline.transformer.config)
        model.load_state_dict(self.accelerator.unwrap_model(self.model).state_dict())
        self.ema.copy_to(model.parameters())
        pipeline = LayerFlowPipeline(
            self.pipeline.tokenizer, self.pipeline.text_encoder, model.eval(), self.pipeline.scheduler
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a model folder in diffusers layout, bf16, whole or not at all."""
        pipeline = self.averaged()
        with whole_folder(folder, replace=True) as partial:
            pipeline.to(torch.bfloat16).save_pretrained(partial)
        self.pipeline.text_encoder.float()  # it is shared with the copy that was rounded

    def sample(self) -> None:
        """A picture of what the averaged weights make of training scenes, for the person who watches."""
        from .sheets import write_sample_sheet

        write_sample_sheet(self.averaged(), self.recipe, self.folder / "samples" / f"step-{self.step:06d}.png")

    def _log(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, self.step)
        if self.report is not None:
            self.report(self.step, values)


def build_pipeline(recipe: Recipe, fit: bool = True, report: Report | None = None) -> LayerFlowPipeline:
    """The pipeline to train: a bundled or loaded text encoder and a fresh or loaded transformer.

    A fresh one is fitted to captions, small stills and holes in backgrounds, which takes minutes; a checkpoint that is
    loaded over it holds that already, so `fit` leaves it out.
    """
    tokenizer, text_encoder = load_text_encoder(find_model(recipe.text))
    if recipe.start_from is not None:
        model = LayerFlowPipeline.load_transformer(recipe.start_from)
    else:
        sizes: dict[str, Any] = {"sample_size": recipe.size, "sample_frames": recipe.clip_frames}
        model = CompactTransformer3DModel(**{**sizes, **recipe.model})
        if fit:
            fit_text_whitening(model, tokenizer, text_encoder, recipe)
        done = None if report is None else lambda what, share: report(0, {what: share})
        if fit and recipe.sketch_scenes:
            fit_sketch(model, tokenizer, text_encoder, recipe, done)
        if fit and recipe.fill_steps:
            fit_fill(model, recipe, done)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return LayerFlowPipeline(tokenizer, text_encoder, model.float(), scheduler)


def fit_text_whitening(
    model: CompactTransformer3DModel,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: LayerTextEncoder,
    recipe: Recipe,
    scenes: int = 400,
) -> None:
    """Fit the backbone's whitening of text states to the captions of some scenes and to the empty prompt."""
    source = SceneSource("train", size=recipe.size, frames=recipe.clip_frames)
    prompts = [source.prompts(index, recipe.seed)[layer] for index in range(scenes) for layer in LAYERS]
    prompts += [""] * (len(prompts) // 10)
    tokens, means = [], []
    for start in range(0, len(prompts), 100):
        states, mask = encode_prompts(tokenizer, text_encoder, prompts[start : start + 100])
        tokens.append(states[mask])
        means.append(pool(states, mask))
    model.text_whitening.fit(torch.cat(tokens))
    model.pool_whitening.fit(torch.cat(means))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


__all__ = ["Trainer", "add_noise", "clip_errors", "learning_rate_at", "loss_of"]
