"""Training recipe: a YAML file read into dataclasses, checked before any heavy work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.config import ConfigError, read_dataclass, read_values, read_yaml
from ..core.schema import TASKS
from .family import load_family

PRECISIONS = ("auto", "no", "bf16", "fp16")
STAGES = ("base", "motion", "content", "unify")
"""Stages of the paper's training, in order; `unify` goes over everything once more."""
ADAPTERS = ("motion", "content")
FRAME_MASKS = ("first", "ends", "few", "prefix", "matte")
"""Kinds of frame masks, see `StageRecipe.frame_masks`."""
SOURCES = ("scenes", "composites", "shards")
"""Kinds of sources of training clips."""
HINTS = ("click", "trimap", "matte")
"""Kinds of hints, see `StageRecipe.hints`."""
ANY = "any"
"""Name, among tasks, of a random proper subset of given clips."""


def mixed_precision(name: str) -> str:
    """Return one of `PRECISIONS` other than `auto`, which is bf16 where that computes faster than float32."""
    if name != "auto":
        return name
    import torch

    from ..runtime.placement import cpu_has_bfloat16

    return "bf16" if torch.accelerator.is_available() or cpu_has_bfloat16() else "no"


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}, but must be {', '.join(choices[:-1])} or {choices[-1]}", key)


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
    """Highest weight of the x-prediction loss, which is 1 / t^2 (the loss on velocity, arXiv 2511.13720)."""

    def __post_init__(self) -> None:
        if not 0 <= self.pure <= 1:
            raise ConfigError(f"noise.pure is a share between 0 and 1, got {self.pure}", "noise.pure")


@dataclass(frozen=True)
class PhaseRecipe:
    """One part of the curriculum: the number of frames of a clip that a sample shows."""

    steps: int
    """Optimiser steps of the phase."""
    frames: dict[int, float]
    """Frames per sample and how often they are drawn. A sample of fewer than all frames shows a random, ordered
    choice of the clip's frames at their true positions: looks are learnt from cheap stills."""


@dataclass(frozen=True)
class DataRecipe:
    """One source of training clips."""

    kind: str = "scenes"
    """scenes: drawn without end, with the art of an atlas if `folder` names one; composites: sprites over photographs,
    of an atlas that `tools/atlas.py` built; shards: a folder that `layerflow data build` wrote."""
    form: str = "clean"
    """Form of scenes. clean: as drawn; crude: with the matte and background that footage with masks would give;
    copy-paste: the foreground of one, cut out crudely, over the background of another."""
    folder: str = ""
    """Folder of the shards or the atlas, relative to the recipe's. Scenes need none: without an atlas they show emoji
    of a font and drawn backgrounds."""
    kinds: tuple[str, ...] = ()
    """Kinds of clips that are taken from the shards (masks, layered, pairs, ...); all where none is named."""
    share: float = 1.0
    """Weight of this source among all, when the source of a sample is drawn."""
    frozen: bool = False
    """One frame is held for the whole clip: a static clip, as layered images give. Stills in shards always are."""
    precomputed: bool = True
    """Latents and text states are taken from shards that have them; false: clips and prompts are encoded anew."""
    adapters: tuple[str, ...] = ("auto",)
    """Adapters that are on for its samples. auto: all, but motion only where the sample is frozen."""

    def __post_init__(self) -> None:
        if self.kind not in SOURCES or self.form not in ("clean", "crude", "copy-paste"):
            raise ConfigError(
                f"data: kind {self.kind!r} and form {self.form!r}; kind must be {', '.join(SOURCES[:-1])} or "
                f"{SOURCES[-1]}, and form clean, crude or copy-paste",
                "data",
            )
        if self.kind == "composites" and (not self.folder or self.form != "clean"):
            raise ConfigError(
                "data: composites need the folder of an atlas, which `tools/atlas.py build` wrote, and are clean",
                "data.folder",
            )
        if self.kind == "shards" and not self.folder:
            raise ConfigError("data: shards need a folder, the one that `layerflow data build` wrote", "data.folder")
        if not self.share > 0:
            raise ConfigError(
                f"data: share is {self.share}, but must be above 0; leave the source out instead", "data.share"
            )
        unknown = [name for name in self.adapters if name not in (*ADAPTERS, "auto")]
        if unknown:
            raise ConfigError(
                f"data: adapter {unknown[0]!r} is not known; the adapters are {', '.join(ADAPTERS)}", "data.adapters"
            )

    def adapters_on(self, frozen: bool) -> frozenset[str]:
        """Return the adapters that are on for a sample of this source, as far as the network has them."""
        if "auto" in self.adapters:
            return frozenset(ADAPTERS) - (frozenset() if frozen else {"motion"})
        return frozenset(self.adapters)


@dataclass(frozen=True)
class AdapterRecipe:
    """Size of the adapters."""

    rank: int = 16
    """Rank of the two matrices of each adapted layer."""
    alpha: float = 16.0
    """Scale of their output, times the rank: it is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Ends of the names of layers that get an adapter; by default those that fit the backbone."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapters.rank is {self.rank}, but must be at least 1", "adapters.rank")


@dataclass(frozen=True)
class StageRecipe:
    """Everything that one stage of a training run depends on; two runs on one machine give the same weights."""

    name: str
    """Folder under the output folder."""
    phases: tuple[PhaseRecipe, ...]
    """Parts of the curriculum, one after another."""
    stage: str = "base"
    """base trains the network; motion and content an adapter of that name, with all else frozen; unify goes over
    everything once more."""
    trains: str = "auto"
    """base, motion or content: the part that is trained, if not the stage's; unify trains content by default."""
    data: tuple[DataRecipe, ...] = (DataRecipe(),)
    """Sources of clips."""
    adapters: AdapterRecipe = field(default_factory=AdapterRecipe)
    """Size of the adapters."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of the backbone, see CompactTransformer3DModel; with start_from, those that are changed."""
    start_from: str | None = None
    """Model whose transformer weights training starts from; a fresh network where absent."""
    transformer: str = "auto"
    """Transformer that is trained, of a model that has two: transformer, at noise levels from the boundary up, or
    transformer_2, at those below. Train the other from the result of this run."""
    train_fitted: bool = False
    """Also train the parts of the network that were fitted before, such as the mini's sketch; else they stay as they
    are."""
    seed: int = 0
    """Seed of everything random: clips, tasks, noise, fresh weights."""
    size: int = 64
    """Height and width of drawn scenes, in pixels."""
    clip_frames: int = 8
    """Frames of a whole clip."""
    frames_per_batch: int = 32
    """Frames in one optimiser step; a batch holds this many divided by the frames per sample. Of clips larger than
    `size` it holds proportionally fewer."""
    batch_multiple: int = 1
    """Divisor of every batch's number of samples, so that this many processes can share it."""
    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "generate": 0.5,
            "decompose": 0.22,
            "add-background": 0.08,
            "add-foreground": 0.08,
            ANY: 0.12,
        }
    )
    """Shares of the sets of given clips, by task; `any` is a random proper subset."""
    frame_masks: dict[str, float] = field(default_factory=dict)
    """Shares of samples that are also given single frames of other clips, by kind: `first`, the first frame of some
    clips; `ends`, the first and the last; `few`, any; `prefix`, the first few of all clips, as windows of a longer
    video have; `matte`, one frame of a matte. The rest are given none."""
    hints: dict[str, float] = field(default_factory=dict)
    """Shares of samples with known places of a matte at one frame, by kind: `click`, discs inside and outside of the
    foreground; `trimap`; `matte`, all of it. For networks that take hints, such as the mini's with `hints: true`."""
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    """Noise levels."""
    prompt_dropout: float = 0.1
    """Share of samples without any prompt; guidance needs them."""
    layer_dropout: float = 0.1
    """Chance for each single prompt to be left out."""
    foreground_weight: float = 3.0
    """Extra loss weight of pixels on and around the foreground."""
    hidden_weight: float = 0.0
    """Extra loss weight of the background where the foreground hides it."""
    optimizer: str = "muon"
    """muon: Muon for matrices, AdamW for the rest; adamw, which sharded weights need."""
    learning_rate: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: float = 0.4
    """Last share of the steps in which the learning rate falls along a cosine to a fiftieth; 1 is a plain cosine."""
    weight_decay: float = 0.01
    """Weight decay of matrices and kernels."""
    max_grad_norm: float = 1.0
    """Norm that gradients are clipped to."""
    ema: float = 0.999
    """Decay of the moving average of the weights, reached by a warm-up."""
    precision: str = "no"
    """Accelerate's mixed precision: no, bf16 or fp16; `auto` is bf16 on an accelerator and on a processor that computes
    in it, and slows no other down."""
    compile: bool = False
    """torch.compile the blocks of the network."""
    compile_backend: str = "inductor"
    """Backend of torch.compile, one of `torch.compiler.list_backends()`; inductor needs a C++ compiler, on a GPU
    Triton."""
    tiling: bool = False
    """The autoencoder encodes clips tile by tile: a fraction of the memory, and nearly the same latents."""
    gradient_checkpointing: bool = False
    """Activations of the blocks are computed again in the backward pass, instead of kept."""
    frozen_dtype: str = "float32"
    """Number format of a base that is frozen, float32 or bfloat16."""
    workers: int = 1
    """Processes that make batches."""
    log_every: int = 20
    """Steps from one entry of the log to the next."""
    checkpoint_every: int = 200
    """Steps from one checkpoint to the next."""
    sample_every: int = 1000
    """Steps from one sample sheet to the next."""
    sample_steps: int = 16
    """Denoising steps of a sample sheet."""
    mini: Any = field(
        default_factory=lambda: load_family("mini").recipe_keys(),
        metadata={"class": lambda: load_family("mini").recipe_keys},
    )
    """Keys of the mini alone: how a fresh one is fitted, and what its drawn scenes show."""

    def __post_init__(self) -> None:
        self._check_choices()
        for task in self.tasks:
            if task not in TASKS and task != ANY:
                raise ConfigError(f"tasks: unknown task {task!r}; the tasks are {', '.join(TASKS)} and {ANY}", "tasks")
        for key, kinds in (("frame_masks", FRAME_MASKS), ("hints", HINTS)):
            shares = getattr(self, key)
            for kind, share in shares.items():
                if kind not in kinds:
                    raise ConfigError(f"{key}: unknown kind {kind!r}; the kinds are {', '.join(kinds)}", key)
                if share < 0:
                    raise ConfigError(f"{key}: {kind} is {share}, but must be a share from 0 to 1", key)
            if sum(shares.values()) > 1:
                raise ConfigError(f"{key}: the shares add up to {sum(shares.values()):g}, but must not exceed 1", key)
        if not self.data:
            raise ConfigError("data: a recipe needs at least one source", "data")
        if self.batch_multiple < 1:
            raise ConfigError(f"batch_multiple is {self.batch_multiple}, but must be at least 1", "batch_multiple")
        if not self.phases or self.steps < 1:
            raise ConfigError("phases: a recipe needs at least one phase with at least one step", "phases")
        for frames in sorted({frames for phase in self.phases for frames in phase.frames}):
            if not 1 <= frames <= self.clip_frames or self.frames_per_batch % frames:
                raise ConfigError(
                    f"phases: {frames} frames per sample; it must be at most clip_frames={self.clip_frames} and "
                    f"divide frames_per_batch={self.frames_per_batch}",
                    "phases",
                )

    def _check_choices(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"stage {self.stage!r} is not known; the stages are {', '.join(STAGES)}", "stage")
        _check_choice("trains", self.trains, ("auto", "base", *ADAPTERS))
        _check_choice("transformer", self.transformer, ("auto", "transformer", "transformer_2"))
        _check_choice("optimizer", self.optimizer, ("muon", "adamw"))
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("frozen_dtype", self.frozen_dtype, ("float32", "bfloat16"))
        if self.compile:
            import torch

            _check_choice("compile_backend", self.compile_backend, torch.compiler.list_backends(exclude_tags=()))

    @property
    def trained(self) -> str:
        """Part that the stage trains: base, motion or content."""
        if self.trains != "auto":
            return self.trains
        return "content" if self.stage == "unify" else self.stage

    @property
    def mixed_precision(self) -> str:
        """`precision` on this machine, see `mixed_precision`."""
        return mixed_precision(self.precision)

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def samples(self, frames: int, height: int, width: int) -> int:
        """Return the samples of a batch, over all processes, from their number of frames and size in pixels."""
        smaller = min(1.0, self.size**2 / (width * height))
        whole = int(self.frames_per_batch * smaller / frames + 1e-9) // self.batch_multiple
        return max(1, whole) * self.batch_multiple

    def phase_at(self, step: int) -> PhaseRecipe:
        """Return the phase that a step falls in."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by key."""
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """A training run: one stage, or several, of which each starts from the results of those before it."""

    name: str
    """Folder under the output folder."""
    stages: tuple[StageRecipe, ...]
    """Stages in order."""
    staged: bool = False
    """The file names its stages; each then has a folder in the run's."""

    def __post_init__(self) -> None:
        names = [stage.stage for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"stages: each may be named once, got {', '.join(names)}", "stages")
        for key in ("precision", "transformer"):
            if len({getattr(stage, key) for stage in self.stages}) > 1:
                raise ConfigError(
                    f"stages: {key} must be the same in all of them; give it once, outside of stages", "stages"
                )
        if self.staged:
            self._check_order()

    def _check_order(self) -> None:
        trained = {"base"} if self.stages[0].start_from is not None else set()
        for stage in self.stages:
            needed = {stage.trained} if stage.stage == "unify" else set()
            if stage.stage != "base":
                needed |= {"base"}
            if missing := sorted(needed - trained):
                raise ConfigError(
                    f"stages: {stage.stage} needs a stage {missing[0]} before it"
                    + (", or start_from, a model that is trained already" if missing[0] == "base" else ""),
                    "stages",
                )
            trained |= {stage.trained}

    @property
    def start_from(self) -> str | None:
        """Model that the first stage starts from."""
        return self.stages[0].start_from

    def with_seed(self, seed: int) -> Recipe:
        """Return the recipe with another seed, which is added to its name."""
        name = f"{self.name}-seed{seed}"
        stages = tuple(replace(stage, seed=seed, name=name) for stage in self.stages)
        return replace(self, name=name, stages=stages)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a training recipe: the keys of a `StageRecipe`, and `stages`, a list of stages with their own keys.

    `extends: other.yaml` takes over the keys of a recipe in the same folder that this one does not give itself.
    Folders of shards are relative to the recipe's.

    Args:
        path: a YAML file.
        overrides: values by key that replace those of the file.

    Raises:
        ConfigError: the file cannot be read; a key is unknown, missing, of another type or out of range; a stage needs
            another before it.
    """
    path = Path(path)
    values = {"name": path.stem, **read_yaml(path), **(overrides or {})}
    stages = values.pop("stages", None)
    if not stages:
        stage: StageRecipe = read_dataclass(StageRecipe, values, str(path))
        return Recipe(stage.name, (_with_home(stage, path),))
    if not isinstance(stages, Sequence) or isinstance(stages, str):
        raise ConfigError(f"{path}: stages is {stages!r}, but must be a list of stages", "stages")
    common = read_values(StageRecipe, values, str(path))
    read = tuple(_read_stage(own, common, f"stages[{number}]") for number, own in enumerate(stages))
    return Recipe(common["name"], tuple(_with_home(stage, path) for stage in read), staged=True)


def _read_stage(own: Any, common: Mapping[str, Any], where: str) -> StageRecipe:
    if not isinstance(own, Mapping) or "stage" not in own or "stages" in own or "name" in own:
        raise ConfigError(
            f"{where}: a stage needs the key stage ({', '.join(STAGES)}) and may have others of a recipe, but no name",
            where,
        )
    merged = {**common, **read_values(StageRecipe, own, where, where)}
    if "phases" not in merged:
        raise ConfigError(f"{where}: key 'phases' is missing", f"{where}.phases")
    try:
        return StageRecipe(**merged)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", f"{where}.{error.field}" if error.field else where) from None


def _with_home(stage: StageRecipe, path: Path) -> StageRecipe:
    home = path.resolve().parent
    data = (replace(source, folder=str(home / source.folder)) if source.folder else source for source in stage.data)
    return replace(stage, data=tuple(data))


__all__ = [
    "ADAPTERS",
    "STAGES",
    "AdapterRecipe",
    "DataRecipe",
    "NoiseRecipe",
    "PhaseRecipe",
    "Recipe",
    "StageRecipe",
    "load_recipe",
    "mixed_precision",
]
