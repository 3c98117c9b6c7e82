"""The training loop: noise what is generated, keep what is given, learn the clean clips.

One step is a pure function of the state and the step's number, so that a resumed run continues bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from ..core.atomic import whole_folder
from ..core.config import ConfigError
from ..core.schema import ALPHA
from ..evaluation.metrics import alpha_iou
from ..models.folders import ADAPTER_FOLDERS
from ..models.layout import Layout
from ..pipeline import LayerFlowPipeline
from . import adapters as adapters_module
from .batches import MOST_SAMPLES, Batch, build_batches, draw_noise_levels
from .checkpoints import last_checkpoint, load_checkpoint, save_checkpoint
from .family import load_family
from .loop import Every, Report, run_steps
from .objective import Target, clip_errors, encode_batch, encode_clips, loss_of, make_target, noise_of
from .processes import build_accelerator, build_optimisation
from .recipe import StageRecipe
from .results import read_results, save_result
from .schedule import make_schedule, warm_cosine
from .sharding import gathered, load_average, load_model, load_optimizer
from .trainable import build_trainable, place_encoders

TEXT_MULTIPLE = 16
"""Texts are padded to a multiple of this many tokens where the network is compiled."""


def learning_rates(recipe: StageRecipe, optimizer: Optimizer, step: int = 0) -> LambdaLR:
    """Return the schedule of a stage at a step: warm-up, plateau, and a cosine over `decay` to a fiftieth."""
    return make_schedule(
        optimizer,
        recipe.learning_rate,
        lambda at: warm_cosine(at, recipe.steps, recipe.warmup, recipe.decay, floor=0.02),
        step,
    )


class Trainer:
    """One stage of a recipe in its folder: checkpoints/, samples/, logs for TensorBoard, and at the end result/.

    Started in several processes, as `torchrun` or `accelerate launch` do, they share every batch; the first one writes.

    Args:
        recipe: one stage.
        output: folder of runs.
        resume: continue from the last checkpoint, if there is one.
        report: called with the number of a step and measured values by name.
        folder: of this run; the recipe's name in `output` by default.
        earlier: folders of the results of earlier stages, in turn.
        final: write a whole model at the end.

    Raises:
        ConfigError: the folder holds a run and `resume` is not set, or the recipe does not fit the model, its data or
            the processes.
    """

    def __init__(
        self,
        recipe: StageRecipe,
        output: Path,
        resume: bool = False,
        report: Report | None = None,
        folder: Path | None = None,
        earlier: Sequence[Path] = (),
        final: bool = True,
    ) -> None:
        self.recipe, self.folder, self.report, self.final = recipe, folder or Path(output) / recipe.name, report, final
        self.model_folder = Path(output) / recipe.name / "model"
        checkpoint = last_checkpoint(self.folder, resume)
        set_seed(recipe.seed)
        self.accelerator = build_accelerator(recipe)
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.folder.mkdir(parents=True, exist_ok=True)
        results = read_results(earlier)
        fresh = checkpoint is None and not any(result.base for result in results)
        self.network = build_trainable(recipe, results, self.accelerator, fresh, report)
        self.pipeline, self.dtype = self.network.pipeline, self.network.dtype
        if recipe.frame_masks:
            self.network.model.register_to_config(frame_masks=True)
        self.batches = build_batches(recipe, self.accelerator, self.pipeline)
        place_encoders(self.pipeline, recipe, self.device, idle=self.batches.precomputed)
        own = build_optimisation(self.accelerator, recipe, self.network.model)
        self.model, self.optimizer, self.trained, self.ema = own.model, own.optimizer, own.trained, own.ema
        self.zero, self.sharded = own.zero, own.sharded
        self.writer = SummaryWriter(str(self.folder / "logs")) if self.is_main else None
        self.step = 0 if checkpoint is None else self._restore(checkpoint)
        self.schedule = learning_rates(recipe, self.optimizer, self.step)

    def train(self, until: int | None = None) -> None:
        """Train to the recipe's last step, or to step `until`."""
        recipe, last = self.recipe, min(until or self.recipe.steps, self.recipe.steps)
        batches = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, last),
            num_workers=recipe.workers,
            prefetch_factor=4 if recipe.workers else None,
            worker_init_fn=_one_thread,
            pin_memory=self.device.type == "cuda",
        )
        actions = [
            Every(recipe.checkpoint_every, lambda _: self.save()),
            Every(recipe.sample_every, lambda _: self.sample(), at_end=False),
        ]
        run_steps(
            self._next_step,
            batches,
            self.step,
            last,
            self._log,
            recipe.log_every,
            actions,
            unit="frames",
            size=lambda batch: batch.size * batch.positions.shape[1],
        )
        if self.writer is not None:
            self.writer.flush()
        if self.step == recipe.steps:
            self._finish()

    def _next_step(self, batch: Batch) -> dict[str, float]:
        values = self.train_step(batch)
        self.step += 1
        return values

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Make one optimiser step; return measured values by name."""
        recipe = self.recipe
        seed = recipe.seed * 1_000_003 + self.step
        t = draw_noise_levels(recipe, batch.size, torch.Generator().manual_seed(seed), self.network.levels)
        t = t[batch.first : batch.first + len(batch.tasks)].to(self.device)
        batch = batch.to(self.device)
        clean, layout = encode_clips(self.pipeline, batch)
        noise = noise_of(batch, layout, clean, seed)
        target = make_target(self.pipeline, batch, clean, layout, t, noise, recipe)
        text, mask = encode_batch(self.pipeline, batch)
        if recipe.compile:  # every length is compiled anew
            missing = -text.shape[2] % TEXT_MULTIPLE
            text, mask = F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        self.network.switch.set(batch.adapters)
        positions = batch.positions if self.pipeline.vae is None else None
        with self.accelerator.autocast():
            output = self.model(
                target.noised.to(self.dtype),
                target.timestep,
                text.to(self.dtype),
                mask,
                layout,
                positions,
                **self.further_inputs(batch, clean, layout, text, mask, seed),
            )
        errors = clip_errors(output.sample, target)
        loss = loss_of(errors, target)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.trained, recipe.max_grad_norm)  # of DeepSpeed's a plain number
        norm = torch.as_tensor(gathered(norm), device=self.device)
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator.optimizer_step_was_skipped:  # fp16: the scale of the loss was too large, and is lowered
            norm = torch.zeros_like(norm)
        else:
            self.ema.step(self.trained)
        if not math.isfinite(float(norm)):
            raise RuntimeError(
                f"the gradient is not finite at step {self.step}; lower learning_rate and continue it with `resume`"
            )
        scalars = {"loss": loss, "gradient_norm": norm}
        values = {"learning_rate": rate} | {name: self._mean(value.detach()) for name, value in scalars.items()}
        return values | self._meters(batch, target, output.sample.detach(), errors.detach(), t)

    def further_inputs(
        self, batch: Batch, clean: Tensor, layout: Layout, text: Tensor, mask: Tensor, seed: int
    ) -> dict[str, Tensor]:
        """Return the backbone's `training_inputs` of a batch; a sample's are the same in every process."""
        model: Any = self.accelerator.unwrap_model(self.model)
        if self.sharded:
            model.unshard()  # outside of `forward` weights are shards
        places = range(batch.first, batch.first + len(batch.given))
        generators = [torch.Generator().manual_seed((~seed * MOST_SAMPLES + place) % 2**63) for place in places]
        inputs: dict[str, Tensor] = model.training_inputs(
            clean, layout, batch.given, text, mask, batch.positions, generators
        )
        return inputs if batch.hints is None else {**inputs, "hints": batch.hints}

    def _mean(self, value: Tensor) -> float:
        """Return the mean over all processes, whose shares of a batch are equal."""
        if self.accelerator.num_processes > 1:
            value = self.accelerator.reduce(value, "mean")
        return float(value)

    def _meters(self, batch: Batch, target: Target, prediction: Tensor, errors: Tensor, t: Tensor) -> dict[str, float]:
        values = {}
        generated = (~batch.given).any(2)
        for column, clip in enumerate(target.layout.clips):
            if generated[:, column].any():
                values[f"error/{clip}"] = float(errors[generated[:, column], column].mean())
        pure = torch.tensor([task == "decompose" for task in batch.tasks], device=t.device) & (t == 1)
        if pure.any() and self.pipeline.vae is None:
            # The figure that counts: a matte from pure noise, not read out of a half-noised one.
            where = target.layout.clip_slice(ALPHA)
            pairs = zip(prediction[pure][:, where], target.clean[pure][:, where], strict=True)
            ious = [alpha_iou(matte, true, threshold=0) for matte, true in pairs]
            values["decompose/alpha_iou_from_pure_noise"] = sum(ious) / len(ious)
        return values

    def _state(self) -> dict[str, Tensor]:
        """Return the weights for a checkpoint: all where the base is trained, else the adapter's alone."""
        state = self.accelerator.unwrap_model(self.model).state_dict()
        return gathered({name: tensor for name, tensor in state.items() if self.network.is_kept(name)})  # type: ignore[no-any-return]

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = {
            "model": self._state(),
            "ema": gathered(self.ema.state_dict()),
            "optimizer": self.zero.optimizer_state(self.optimizer)
            if self.zero
            else gathered(self.optimizer.state_dict()),
        }
        if self.accelerator.scaler is not None:  # fp16: how much the loss is scaled by now
            tensors["scaler"] = self.accelerator.scaler.state_dict()
        if self.is_main:
            save_checkpoint(self.folder / "checkpoints", self.step, tensors, {"recipe": self.recipe.to_dict()})
        self.accelerator.wait_for_everyone()

    def _restore(self, path: Path) -> int:
        """Load a checkpoint; return its step."""
        state, info = load_checkpoint(path)
        model = self.accelerator.unwrap_model(self.model)
        if self.zero is not None:
            missing, unexpected = self.zero.restore(self.accelerator, model, self.optimizer, state)
        else:
            missing, unexpected = load_model(model, state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
        if unexpected or any(self.network.is_kept(name) for name in missing):
            raise ConfigError(f"{path} is of another network than the recipe's; choose another `output`")
        load_average(self.ema, state["ema"], self.trained)
        self.ema.to(self.device)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return int(info["step"])

    def averaged_model(self) -> Any:
        """Return a copy of the network with averaged weights and its adapters. All processes must call it."""
        model: Any = self.accelerator.unwrap_model(self.model)
        if self.sharded or self.zero is not None:  # such a network cannot be copied as it is
            state = gathered(model.state_dict())
            whole = self.network.network_class.from_config(model.config).to(self.dtype)
            for name in self.network.adapters:
                whole.add_adapter(model.peft_config[name], adapter_name=name)
            whole.load_state_dict({name: tensor.cpu() for name, tensor in state.items()})
            self.network.freeze(whole)
        else:
            whole = copy.deepcopy(model)
        averages = gathered(self.ema.shadow_params)
        own = [parameter for parameter in whole.parameters() if parameter.requires_grad]
        for parameter, average in zip(own, averages, strict=True):
            parameter.data.copy_(average)
        return whole.eval().to(memory_format=torch.contiguous_format)

    def averaged(self) -> LayerFlowPipeline:
        """Return a pipeline for inference: averaged weights, content fused, motion left out."""
        model = self.averaged_model()
        if self.network.adapters:
            if "content" in self.network.adapters:
                model.fuse_lora(adapter_names=["content"])
            model.unload_lora()
        pipeline = self._pipeline_with(model)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _pipeline_with(self, model: Any) -> LayerFlowPipeline:
        """Return the pipeline with another network in place of the trained one."""
        parts = {**self.pipeline.components, self.network.part: model}
        return LayerFlowPipeline(**parts, boundary_ratio=self.pipeline.config.boundary_ratio)

    def _finish(self) -> None:
        """Write the result of the stage, and after the last stage a whole model."""
        model = self.averaged_model()
        if self.is_main:
            save_result(self, model, self.folder / "result")
            if self.final:
                self.export(self.model_folder, model)
        self.accelerator.wait_for_everyone()

    def export(self, folder: Path, model: Any) -> None:
        """Write a copy of the network as a model folder in diffusers layout and bfloat16, whole or not at all.

        Adapters are stored beside the network; loading fuses content and leaves motion out. The copy is modified.
        """
        with whole_folder(folder, replace=True) as partial:
            for name in self.network.adapters:
                adapters_module.save(model, name, partial / ADAPTER_FOLDERS[self.network.part] / name)
            if self.network.adapters:
                model.unload_lora()
            self._pipeline_with(model).to(torch.bfloat16).save_pretrained(partial)
        for name, part in self.pipeline.components.items():  # shared with the copy that was rounded
            if isinstance(part, torch.nn.Module) and name != self.network.part:
                part.float()

    def sample(self) -> None:
        """Write a sheet of samples of the averaged weights, of backbones that work on pixels as the drawn scenes do."""
        if self.pipeline.vae is not None:
            return
        pipeline = self.averaged()
        if self.is_main:
            path = self.folder / "samples" / f"step-{self.step:06d}.png"
            load_family("mini").write_samples(pipeline, self.recipe, path)
        self.accelerator.wait_for_everyone()

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        if self.report is not None and self.is_main:
            self.report(step, values)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


__all__ = ["Trainer", "learning_rates"]
