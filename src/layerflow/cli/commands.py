"""The commands. Each parses, calls and reports; what needs torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.garbage_collection import paused_collection
from . import data as footage
from .options import (
    Alpha,
    Background,
    Blended,
    Device,
    Dtype,
    Foreground,
    Memory,
    Model,
    ModelOptions,
    RunOptions,
    Speed,
    with_run_options,
)

app = typer.Typer(
    help="Layered video: a transparent foreground, a clean background and the blended video.\n\n"
    "    layerflow generate --foreground 'a red balloon rising' --background 'green hills' -o out/balloon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(footage.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"layerflow {__version__}")
        raise typer.Exit


@app.callback()
def _layerflow(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@with_run_options
def generate(foreground: Foreground, background: Background, options: RunOptions, blended: Blended = None) -> None:
    """Make all layers from prompts.

    [bold]Example[/]: layerflow generate --foreground "a red balloon" --background "green hills" -o out/balloon
    """
    _run({}, (foreground, background, blended), options)


@app.command()
@with_run_options
def decompose(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The blended video to take apart.")],
    options: RunOptions,
    foreground: Foreground = "",
    background: Background = "",
    blended: Blended = None,
) -> None:
    """Take a video apart into foreground, alpha and background. Prompts help but are not needed.

    [bold]Example[/]: layerflow decompose clip.mp4 --foreground "a red balloon" -o out/apart
    """
    _run({"blended": video}, (foreground, background, blended), options)


@app.command("add-background")
@with_run_options
def add_background(
    video: Annotated[Path, typer.Argument(metavar="FOREGROUND", help="A video with alpha, or see --alpha.")],
    background: Background,
    options: RunOptions,
    foreground: Foreground = "",
    blended: Blended = None,
    alpha: Alpha = None,
) -> None:
    """Make a background, and the blended video, for a foreground that has alpha.

    [bold]Example[/]: layerflow add-background balloon.mov --background "snowy hills at dusk" -o out/snow
    """
    _run({"foreground": video, "alpha": alpha or video}, (foreground, background, blended), options)


@app.command("add-foreground")
@with_run_options
def add_foreground(
    video: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="The background, a video or a still.")],
    foreground: Foreground,
    options: RunOptions,
    background: Background = "",
    blended: Blended = None,
) -> None:
    """Make a foreground with alpha, and the blended video, for a background.

    [bold]Example[/]: layerflow add-foreground hills.mp4 --foreground "a red balloon rising" -o out/added
    """
    _run({"background": video}, (foreground, background, blended), options)


@app.command()
@with_run_options
def complete(
    given: Annotated[
        list[str],
        typer.Option(
            metavar="CLIP=VIDEO",
            help="A clip that is there: foreground, alpha, background or blended; may be repeated.",
        ),
    ],
    options: RunOptions,
    foreground: Foreground = "",
    background: Background = "",
    blended: Blended = None,
) -> None:
    """Make whatever is missing, from any set of clips.

    [bold]Example[/]: layerflow complete --given background=hills.mp4 --given alpha=matte.mp4 -o out/completed
    """
    from ..generation.inputs import parse_given

    _run(parse_given(given), (foreground, background, blended), options)


def _run(sources: dict[str, Path], prompts: tuple[str, str, str | None], options: RunOptions) -> None:
    with paused_collection():
        from ..generation.run import run_model

    run_model(sources, *prompts, options)


@app.command()
def batch(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS.jsonl", help="The jobs, one JSON object a line.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder that gets a folder for each job.")
    ],
    model: Model = "mini",
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory: Memory = "auto",
    speed: Speed = (),  # type: ignore[assignment]
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster; local starts one on this machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Models on the cluster.", show_default="one for each GPU, else 1"),
    ] = None,
) -> None:
    """Run a file of jobs; run again, it does what is new, changed or failed.

    Keys of a job: id, foreground, background, blended (prompts), given (clips and their files, from the folder of
    the jobs file), seed, steps, guidance, noise_scale, frames, size, upscale, fps, formats. Those left out are as in
    the single commands.

    [bold]Example[/]: layerflow batch jobs.jsonl -o out/batch
    """
    from ..generation.batch import run_batch

    if run_batch(jobs, output, ModelOptions(model, device, dtype, memory, tuple(speed)), ray, workers):
        raise typer.Exit(1)


@app.command()
def compose(
    foreground: Annotated[Path, typer.Argument(metavar="FOREGROUND", help="A video with alpha, or see --alpha.")],
    background: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="A video or a still.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; its end names the format.")
    ],
    alpha: Alpha = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Format, where the file's name does not tell.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop and resize the background to the foreground's size.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N frames of both.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="RATE", help="Resample both to this rate.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Lay a foreground over a background: alpha * foreground + (1 - alpha) * background, without a model.

    [bold]Example[/]: layerflow compose out/balloon/foreground.webm beach.mp4 -o balloon-on-beach.mp4 --fit
    """
    from .compose import compose_files

    compose_files(foreground, alpha, background, output, format, fit, frames, fps, overwrite)


@app.command()
def export(
    layers: Annotated[Path, typer.Argument(metavar="LAYERS", help="Folder of layers, as the other commands write it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")],
    place: Annotated[
        str,
        typer.Option(
            "--for", metavar="PLACE", help="editors (ProRes, timeline), web, game (sprites) or compositing (OpenEXR)."
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Pixels, or one number for a square.", show_default="as they are"),
    ] = None,
    edges: Annotated[
        float,
        typer.Option(
            metavar="STRENGTH",
            help="From 0 to 1: take the colour of the foreground's edge from inside of it, where an old background "
            "shines through.",
        ),
    ] = 0.0,
    timecode: Annotated[
        str, typer.Option(metavar="HH:MM:SS:FF", help="Of the first frame, for editors.")
    ] = "00:00:00:00",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write layers as an editor, a page, a game or a compositor wants them.

    [bold]Example[/]: layerflow export out/balloon -o out/for-resolve --for editors
    """
    from .export import export_layers

    export_layers(layers, output, place, size, edges, timecode, overwrite)


@app.command()
def studio(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="To bind to; beyond this machine a token is wanted.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0 takes any that is free.")] = 7860,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for jobs and uploads; they outlive the server.")
    ] = Path("out/studio"),
    token: Annotated[
        str | None, typer.Option(metavar="TEXT", help="To be shown by all.", show_default="none here, a new one beyond")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, metavar="N", help="Jobs at a time, each with its own model.")] = 1,
    queue: Annotated[int, typer.Option(min=0, metavar="N", help="Jobs that may wait.")] = 20,
    job_minutes: Annotated[float, typer.Option(min=0.01, metavar="N", help="Longest that a job may take.")] = 15,
    job_gib: Annotated[float, typer.Option(min=0.1, metavar="N", help="Most main memory that a job may hold.")] = 16,
    keep_days: Annotated[float, typer.Option(min=0.001, metavar="N", help="How long jobs and uploads are kept.")] = 7,
    model: Model = "mini",
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory: Memory = "auto",
    speed: Speed = (),  # type: ignore[assignment]
) -> None:
    """Serve a page to make layers, take videos apart and look at both; docs/studio.md has its API.

    [bold]Example[/]: layerflow studio --port 7860
    """
    from .studio import start_studio

    limits = {
        "at_once": at_once, "queue": queue, "job_seconds": job_minutes * 60, "job_memory": int(job_gib * 2**30),
        "keep_seconds": keep_days * 86400,
    }  # fmt: skip
    start_studio(
        work, limits, host=host, port=port, token=token, model=model, device=device, dtype=dtype, memory=memory,
        speed=speed,
    )  # fmt: skip


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train; see recipes/.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for runs.")] = Path("runs"),
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Of a recipe with stages, only this one.", show_default="all in turn"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Another one, also in the run's name.", show_default="the recipe's"),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what each stage needs, and train nothing; data need not be there.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="For --plan.", show_default="the model's")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the recipe's most")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="For --plan: devices.")] = 1,
) -> None:
    """Train a model by a recipe: checkpoints, sample sheets, curves for TensorBoard, the model at the end.

    [bold]Example[/]: layerflow train recipes/mini.yaml --resume

    [bold]Example[/]: layerflow train recipes/cogvideox-2b.yaml --plan --processes 8
    """
    from .train import plan_recipe, train_recipe

    if plan:
        for line in plan_recipe(recipe, size, frames, processes):
            print(line)
        return
    train_recipe(recipe, resume, output, stage, seed)


@app.command("eval")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL|RESULTS]", help="mini, a model folder, a hub id, or a folder of results."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the report; a stopped run goes on there."),
    ] = Path("out/eval"),
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of true layers: results by the same names, or what a model makes of them."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="MODEL", help="Of results, for FVD: random, or a VideoMAE model.")
    ] = "random",
    embedder: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Of results, for prompts: a CLIP model.", show_default="none")
    ] = None,
    ablation: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of runs of recipes/ablations, laid side by side."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Scenes of each trial, over three seeds.")] = 200,
    quick: Annotated[bool, typer.Option("--quick", help="A few scenes of each, to see that all works.")] = False,
    trial: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this trial; may be given again.", show_default="all of them"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Denoising steps.", show_default="the model's")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="SCALE", help="Guidance of every trial.", show_default="the task's"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model on held-out scenes, beside trivial baselines; prints a table, writes JSON and a page.

    A folder of results, whoever made them, is measured as it is, beside --truth. A model with --truth is run on those
    samples, every task that their clips and prompts allow, and measured in the same way.

    [bold]Example[/]: layerflow eval mini -o out/eval --quick

    [bold]Example[/]: layerflow eval peers/decomposed --truth held-out -o out/peers

    [bold]Example[/]: layerflow eval mini --truth held-out -o out/mini
    """
    from .evaluate import evaluate_ablation, evaluate_beside, evaluate_model, evaluate_results, is_results

    if ablation is not None:
        evaluate_ablation(ablation, output, samples, steps)
        return
    if model is None:
        raise typer.BadParameter("name a model or a folder of results, or give --ablation")
    if is_results(model):
        evaluate_results(Path(model), truth, output, features, embedder)
        return
    if truth is not None:
        evaluate_beside(model, truth, output, features, embedder, steps, guidance, device)
        return
    evaluate_model(model, output, samples, quick, trial, steps, guidance, device)


@app.command()
def convert(
    official: Annotated[
        Path, typer.Argument(metavar="OFFICIAL_DIR", help="Folder of an official LayerFlow checkpoint.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Model folder to write.")],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="generate, decompose, add-background or add-foreground; checked where the weights tell.",
            show_default="as the weights tell",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="CogVideoX-2B in diffusers layout, for text encoder and autoencoder."),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Pixels that the checkpoint was trained at.")
    ] = "720x480",
) -> None:
    """Convert an official LayerFlow checkpoint to a model folder.

    [bold]Example[/]: layerflow convert ckpts_2b_lora/gen_rgba -o models/gen --base CogVideoX-2b
    """
    from .convert import convert_checkpoint

    convert_checkpoint(official, output, task, base, size)


@app.command()
def info(
    what: Annotated[
        str | None, typer.Argument(metavar="[MODEL|FILE]", help="A model, a video, or a folder of layers.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="What a run of the model needs: memory, arithmetic, time.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the model's")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="For --plan.", show_default="the model's")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the model's")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="For --plan: the number format.")] = "bfloat16",
    tflops: Annotated[
        float | None, typer.Option(min=0.001, metavar="RATE", help="For --plan: TFLOP/s that the device reaches.")
    ] = None,
) -> None:
    """Say what a model, a video or a folder of layers is; alone, what is installed here.

    [bold]Example[/]: layerflow info out/balloon/foreground.webm

    [bold]Example[/]: layerflow info models/gen --plan --size 720x480 --frames 16 --tflops 400
    """
    from .info import describe, describe_plan

    lines = describe_plan(what, frames, size, steps, dtype, tflops) if plan else describe(what)
    for line in lines:
        print(line)
