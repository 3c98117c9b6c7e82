"""Training recipe: a YAML file read into dataclasses, checked before any heavy work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..core.config import ConfigError, load_config, read_values
from ..mini.world import Variations

PRECISIONS = ("auto", "no", "bf16", "fp16")


def mixed_precision(name: str) -> str:
    """One of `PRECISIONS` other than `auto`, which is bf16 where that computes faster than float32."""
    if name != "auto":
        return name
    import torch

    from ..runtime.placement import cpu_has_bfloat16

    return "bf16" if torch.accelerator.is_available() or cpu_has_bfloat16() else "no"


@dataclass(frozen=True)
class NoiseRecipe:
    """Noise levels that training sees. Flow matching: x_t = (1 - t) x_0 + t noise."""

    pure: float = 0.25
    """Share of samples at t = 1. Alpha is smooth and shines through heavy noise, so levels below 1 alone teach
    a network to read it there instead of from the given clips."""
    mean: float = 1.2
    """Mean of the logit-normal distribution of the other samples' t; above 0 is shifted towards noise."""
    std: float = 1.3
    """Standard deviation of that logit-normal distribution."""
    uniform: bool = False
    """Draw those uniformly instead, as large models are trained."""
    max_weight: float = 4.0
    """The x-prediction loss is weighted by 1 / t^2 (the loss on velocity, arXiv 2511.13720), at most this."""


@dataclass(frozen=True)
class PhaseRecipe:
    """One part of the curriculum: how many frames of its clip a sample shows."""

    steps: int
    """Optimiser steps of the phase."""
    frames: dict[int, float]
    """Frames per sample and how often they are drawn. A sample of fewer than all frames shows a random, ordered
    choice of the clip's frames at their true positions: looks are learnt from cheap stills."""


STAGES = ("base", "motion", "content", "unify")
"""Stages of the paper's training, in order; `unify` goes over everything once more."""
ADAPTERS = ("motion", "content")


@dataclass(frozen=True)
class DataRecipe:
    """One source of training clips."""

    kind: str = "scenes"
    """scenes: drawn without end; shards: a folder that `layerflow data build` wrote."""
    form: str = "clean"
    """Of scenes. clean: as drawn; crude: with the matte and background that footage with masks would give; copy-paste:
    the foreground of one, cut out crudely, over the background of another."""
    folder: str = ""
    """Of shards, relative to the recipe's own."""
    kinds: tuple[str, ...] = ()
    """Kinds of clips that are taken from the shards (masks, layered, pairs, ...); none named: all."""
    share: float = 1.0
    """How often a sample is drawn from here, beside the other sources."""
    frozen: bool = False
    """One frame is held for the whole clip: a static clip, as layered images give. Stills in shards always are."""
    precomputed: bool = True
    """Latents and text states are taken from shards that have them; false: clips and prompts are encoded anew."""
    adapters: tuple[str, ...] = ("auto",)
    """Adapters that are on for its samples. auto: content, and motion where the sample is frozen."""

    def __post_init__(self) -> None:
        if self.kind not in ("scenes", "shards") or self.form not in ("clean", "crude", "copy-paste"):
            raise ConfigError(
                f"data: kind {self.kind!r} and form {self.form!r}; kind must be scenes or shards, and form clean, "
                "crude or copy-paste"
            )
        if self.kind == "shards" and not self.folder:
            raise ConfigError("data: shards want folder, the one that `layerflow data build` wrote")
        if not self.share > 0:
            raise ConfigError(f"data: share is {self.share}, but must be above 0; leave the source out instead")
        unknown = [name for name in self.adapters if name not in (*ADAPTERS, "auto")]
        if unknown:
            raise ConfigError(f"data: adapter {unknown[0]!r} is not known; the adapters are {', '.join(ADAPTERS)}")

    def adapters_on(self, frozen: bool) -> frozenset[str]:
        """Adapters that are on for a sample of this source, as far as the network has them."""
        if "auto" in self.adapters:
            return frozenset(ADAPTERS if frozen else ("content",))
        return frozenset(self.adapters)


@dataclass(frozen=True)
class AdapterRecipe:
    """Size of the adapters."""

    rank: int = 16
    alpha: float = 16.0
    """Their output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Ends of the names of layers that get one; by default those that fit the backbone, see `adapters.targets_of`."""


@dataclass(frozen=True)
class Recipe:
    """All that a training run depends on; two runs of one recipe on one machine give the same weights."""

    name: str
    """Folder under the output folder."""
    phases: tuple[PhaseRecipe, ...] = ()
    stages: tuple[dict[str, Any], ...] = ()
    """Stages in turn. Each names its `stage` and any keys of the recipe that are other in it; without, the recipe is
    one stage itself."""
    stage: str = "base"
    """Of `STAGES`: base trains the network, motion and content an adapter of that name, all else frozen."""
    trains: str = "auto"
    """base, motion or content: what is trained, if not what the stage says; unify trains content by default."""
    data: tuple[DataRecipe, ...] = (DataRecipe(),)
    """Where clips come from."""
    adapters: AdapterRecipe = field(default_factory=AdapterRecipe)
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of the backbone, see CompactTransformer3DModel; with start_from, those that are changed."""
    text: str = "mini"
    """Model whose tokenizer and text encoder are used, frozen."""
    start_from: str | None = None
    """Model whose transformer weights training starts from; a fresh network where absent."""
    transformer: str = "auto"
    """Which one is trained of a model that has two: transformer, at noise levels from the boundary up, or
    transformer_2, at those below. Train the other from what this run leaves."""
    seed: int = 0
    size: int = 64
    """Pixels, height and width of drawn scenes."""
    clip_frames: int = 8
    """Frames of a whole clip."""
    frames_per_batch: int = 32
    """Frames in one optimiser step; a batch holds this many divided by the frames per sample. Of larger clips than
    `size` it holds as many fewer."""
    batch_multiple: int = 1
    """Batches hold a multiple of this many samples, so that so many processes can share each of them."""
    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "generate": 0.5, "decompose": 0.22, "add-background": 0.08, "add-foreground": 0.08, "any": 0.12,
        }
    )  # fmt: skip
    """How often each set of given clips is drawn; `any` is a random proper subset."""
    extra_objects: float = 0.5
    """Share of samples that may show any object, and not one of the core objects that evaluation asks for."""
    variations: Variations = field(default_factory=Variations)
    """How often drawn scenes are varied."""
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    prompt_dropout: float = 0.1
    """Share of samples without any prompt; guidance needs them."""
    layer_dropout: float = 0.1
    """Chance for each single prompt to be left out."""
    foreground_weight: float = 3.0
    """Extra loss weight of pixels on and around the foreground."""
    hidden_weight: float = 0.0
    """Extra loss weight of the background where the foreground hides it."""
    sketch_scenes: int = 60_000
    """Stills that a fresh network's sketch is fitted to before training begins; 0 leaves it as it is."""
    train_sketch: bool = False
    """Train the sketch on with the rest; else it stays as it was fitted."""
    sketch_epochs: int = 7
    """Times that it sees each of them."""
    fill_steps: int = 4000
    """Steps in which a fresh network learns to continue backgrounds behind a foreground; 0 leaves it as it is."""
    optimizer: str = "muon"
    """muon: Muon for matrices, AdamW for the rest; adamw, which sharded weights want."""
    learning_rate: float = 1e-3
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: float = 0.4
    """Last share of the steps in which the learning rate falls along a cosine to a fiftieth; 1 is a plain cosine."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.999
    """Decay of the moving average of the weights, reached by a warm-up."""
    precision: str = "no"
    """Accelerate's mixed precision: no, bf16 or fp16; `auto` is bf16 on an accelerator and on a processor that computes
    in it, and slows no other down."""
    compile: bool = False
    """torch.compile the blocks of the network."""
    compile_backend: str = "inductor"
    """What compiles it, of `torch.compiler.list_backends()`; inductor wants a C++ compiler, on a GPU Triton."""
    tiling: bool = False
    """The autoencoder encodes clips tile by tile: a fraction of the memory, and nearly the same latents."""
    gradient_checkpointing: bool = False
    """Blocks compute their activations again on the way back, instead of keeping them."""
    frozen_dtype: str = "float32"
    """Number format of a base that is frozen, float32 or bfloat16."""
    workers: int = 1
    """Processes that render scenes."""
    log_every: int = 20
    checkpoint_every: int = 200
    sample_every: int = 1000
    sample_steps: int = 16

    def __post_init__(self) -> None:
        from ..core.schema import TASKS

        for task in self.tasks:
            if task not in TASKS and task != "any":
                raise ConfigError(f"tasks: unknown task {task!r}; the tasks are {', '.join(TASKS)} and any")
        if self.stages:
            return
        self._check_stage()
        if not self.phases or self.steps < 1:
            raise ConfigError("phases: a recipe wants at least one phase with at least one step")
        for phase in self.phases:
            for frames in phase.frames:
                if not 1 <= frames <= self.clip_frames or self.frames_per_batch % frames:
                    raise ConfigError(
                        f"phases: {frames} frames per sample; it must be at most clip_frames={self.clip_frames} and "
                        f"divide frames_per_batch={self.frames_per_batch}"
                    )
        if not 0 <= self.noise.pure <= 1:
            raise ConfigError(f"noise.pure is a share between 0 and 1, got {self.noise.pure}")

    def _check_stage(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"stage {self.stage!r} is not known; the stages are {', '.join(STAGES)}")
        if self.trains not in ("auto", "base", *ADAPTERS):
            raise ConfigError(f"trains is {self.trains!r}, but must be auto, base, {' or '.join(ADAPTERS)}")
        if self.transformer not in ("auto", "transformer", "transformer_2"):
            raise ConfigError(f"transformer is {self.transformer!r}, but must be auto, transformer or transformer_2")
        if self.optimizer not in ("muon", "adamw"):
            raise ConfigError(f"optimizer is {self.optimizer!r}, but must be muon or adamw")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}, but must be one of {', '.join(PRECISIONS)}")
        if self.frozen_dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"frozen_dtype is {self.frozen_dtype!r}, but must be float32 or bfloat16")
        if self.compile:
            import torch

            known = torch.compiler.list_backends(exclude_tags=())
            if self.compile_backend not in known:
                raise ConfigError(f"compile_backend is {self.compile_backend!r}, but must be of {', '.join(known)}")
        if not self.data:
            raise ConfigError("data: a recipe wants at least one source")
        if self.batch_multiple < 1 or self.adapters.rank < 1:
            raise ConfigError(
                f"batch_multiple {self.batch_multiple} and adapters.rank {self.adapters.rank} must be at least 1"
            )

    @property
    def trained(self) -> str:
        """What the stage trains: base, motion or content."""
        if self.trains != "auto":
            return self.trains
        return "content" if self.stage == "unify" else self.stage

    def samples(self, frames: int, height: int, width: int) -> int:
        """Samples of a batch, over all processes, of so many frames of a size in pixels."""
        smaller = min(1.0, self.size**2 / (width * height))
        whole = int(self.frames_per_batch * smaller / frames + 1e-9) // self.batch_multiple
        return max(1, whole) * self.batch_multiple

    def in_stages(self) -> tuple[Recipe, ...]:
        """A recipe for each stage, in turn; this one alone where it names none.

        Raises:
            ConfigError: a stage that cannot be followed, or that wants another before it.
        """
        if not self.stages:
            return (self,)
        common = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("stages", "stage")}
        resolved: list[Recipe] = []
        for number, own in enumerate(self.stages):
            where = f"stages[{number}]"
            if not isinstance(own, Mapping) or "stage" not in own or "stages" in own or "name" in own:
                raise ConfigError(f"{where}: a stage names its `stage` ({', '.join(STAGES)}) and keys of a recipe")
            # What is common was read already, so only the stage's own values are.
            read = read_values(Recipe, own, where)
            resolved.append(Recipe(**{**common, **read}))
        there = {"base"} if self.start_from is not None or self.stages[0]["stage"] == "base" else set()
        for recipe in resolved:
            wanted = {"base"} | ({recipe.trained} if recipe.stage == "unify" else set())
            if missing := sorted(wanted - there):
                raise ConfigError(
                    f"stages: {recipe.stage} wants a stage {missing[0]} before it"
                    + (", or start_from, a model that is trained already" if missing[0] == "base" else "")
                )
            there |= {recipe.trained}
        for key in ("precision", "transformer"):
            if len({getattr(recipe, key) for recipe in resolved}) > 1:
                raise ConfigError(f"stages: {key} must be the same in all of them; give it once, outside of stages")
        names = [recipe.stage for recipe in resolved]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages: each may be named once, got {', '.join(names)}")
        return tuple(resolved)

    @property
    def mixed_precision(self) -> str:
        """`precision` as this machine has it, see `mixed_precision`."""
        return mixed_precision(self.precision)

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> PhaseRecipe:
        """The phase that a step falls in."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe of the backbone; unknown keys, wrong types and values out of range raise ConfigError.

    Folders of shards are taken as relative to the recipe's own.
    """
    recipe = load_config(Recipe, path, overrides)
    home = Path(path).resolve().parent
    recipe = replace(
        recipe,
        data=tuple(_at_home(data, home) for data in recipe.data),
        stages=tuple(_stage_at_home(stage, home) for stage in recipe.stages),
    )
    recipe.in_stages()
    return recipe


def _at_home(data: DataRecipe, home: Path) -> DataRecipe:
    return replace(data, folder=str(home / data.folder)) if data.folder else data


def _stage_at_home(stage: dict[str, Any], home: Path) -> dict[str, Any]:
    sources = stage.get("data") if isinstance(stage, Mapping) else None
    if not isinstance(sources, list) or not all(isinstance(source, Mapping) for source in sources):
        return stage  # said by `in_stages`
    placed = [{**s, "folder": str(home / str(s["folder"]))} if s.get("folder") else dict(s) for s in sources]
    return {**stage, "data": placed}
