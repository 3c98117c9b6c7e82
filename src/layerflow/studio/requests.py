"""Bodies of requests, validated before a job is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, create_model, model_validator

from ..core.schema import ALL_CLIPS, ALPHA_OF, BACKGROUND, COMPONENTS, FOREGROUND, MOST_FOREGROUNDS
from ..generation.givens import CLICK, FRAMES, Files, GivenFile, check_something_left, joined
from ..generation.request import Request, Size, field_of, options, type_of
from .store import IDENTIFIER

if TYPE_CHECKING:
    Clip = str
    Matte = str
else:  # a type checker takes no computed literal
    Clip = Literal[*ALL_CLIPS]
    Matte = Literal[*ALPHA_OF.values()]
Preset = Literal["editors", "web", "game", "compositing"]
Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$", max_length=32)]
SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold NUL")
    return text


Prompt = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]


class Given(BaseModel):
    """Source of a given clip: an upload, or a clip of another job."""

    model_config = ConfigDict(extra="forbid", strict=True)

    upload: Identifier | None = None
    job: Identifier | None = None
    clip: Clip | None = None
    """Clip of the job; by default that of the same name."""

    @model_validator(mode="after")
    def _one_source(self) -> Given:
        if (self.upload is None) == (self.job is None):
            raise ValueError("name either an upload or a job")
        return self


Frames = Annotated[str, Field(pattern=f"^{FRAMES}$", max_length=64)]
GivenFrames = Annotated[dict[Frames, Given], Field(min_length=1, max_length=100)]
"""Sources by the frames that they are given at, such as {"0": ..., "4-7": ...}."""


def _kind(value: Any) -> str:
    fields = set(value) if isinstance(value, dict) else set(Given.model_fields)
    return "source" if isinstance(value, Given) or fields & set(Given.model_fields) or not fields else "frames"


AllOrSome = Annotated[
    Annotated[Given, Tag("source")] | Annotated[GivenFrames, Tag("frames")],
    Discriminator(_kind),
]
"""One source for all frames, or several by frames."""

PREFIXES = {"given": "", "trimap": "trimap."}
"""Fields of files, and the start of the names under which a job's folder keeps them."""
MOST_SOURCES = 100
"""Largest number of files of a job."""
MAXIMUM = {"seed": 2**53 - 1, "steps": 200, "frames": 1000, "upscale": 16}
"""Maximum values of fields here: seeds up to the largest integer that browsers represent exactly."""
SERVER_ONLY = ("formats",)
"""Fields that clients cannot set: layers are always stored losslessly."""
LORA = r"^[0-9A-Za-z_][0-9A-Za-z_.-]{0,98}(:-?[0-9.]{1,8})?$"


class JobBase(BaseModel):
    """A job: the fields of `layerflow.generation.request.Request`, its given clips and its session.

    The task follows from which clips are given; fields that are left out are as the model has them.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    given: dict[Clip, AllOrSome] = Field(
        default_factory=dict, description="Clips to keep: of each a source for all frames, or sources by frames."
    )
    trimap: dict[Matte, AllOrSome] = Field(
        default_factory=dict,
        description="Mattes that are known in part: black is background, white is foreground, grey is unknown.",
    )
    session: str = Field("", pattern=r"^[0-9a-zA-Z_-]{0,64}$", description="Name by which the client lists its jobs.")

    @model_validator(mode="after")
    def _can_be_done(self) -> JobBase:
        foregrounds = prompts_of(getattr(self, FOREGROUND))
        count = sum(len(sources_of(getattr(self, field))) for field in PREFIXES)
        if count > MOST_SOURCES:
            raise ValueError(
                f"{count} files are given, but at most {MOST_SOURCES} can be; give a video of several frames"
            )
        check_something_left(files_of(vars(self), Path())["given"], len(foregrounds))
        if not self.given and not (any(map(str.strip, foregrounds)) and str(getattr(self, BACKGROUND)).strip()):
            raise ValueError("without a given clip, prompts for foreground and background are needed")
        return self

    def kept(self) -> dict[str, Any]:
        """Return the fields that were set, for the manifest."""
        return self.model_dump(exclude={"session"}, exclude_none=True, exclude_unset=True)


def prompts_of(value: str | list[str]) -> list[str]:
    """Return the prompts of foregrounds, which may be one text."""
    return [value] if isinstance(value, str) else value


def sources_of(given: Mapping[str, Any], prefix: str = "") -> list[tuple[GivenFile, Any]]:
    """Return sources one by one, each with the file that a job's folder keeps of it: `alpha.mkv`, `alpha.0.mkv`, ...

    Args:
        given: `JobRequest.given` or `JobRequest.trimap`, or the same in a manifest.
        prefix: start of the files' names.
    """
    result = []
    for clip, source in given.items():
        if _kind(source) == "source":
            result.append((GivenFile(clip, Path(f"{prefix}{clip}.mkv")), source))
        else:
            for number, (frames, one) in enumerate(source.items()):
                result.append((GivenFile(clip, Path(f"{prefix}{clip}.{number}.mkv"), frames), one))
    return result


def files_of(request: Mapping[str, Any], folder: Path) -> dict[str, Files]:
    """Return `given` and `trimap` of a request for the files in a job's folder; raises FieldError."""
    return {
        field: joined(
            [replace(file, path=folder / file.path) for file, _ in sources_of(request.get(field, {}), prefix)], field
        )
        for field, prefix in PREFIXES.items()
    }


def body_field(name: str) -> tuple[Any, Any]:
    """Return type and `Field` of a request's field in the body of a job."""
    option, (kind, optional) = options(Request)[name], type_of(Request, name)
    default = field_of(Request, name).default
    facts: dict[str, Any] = {"description": option.help}
    if name == FOREGROUND:
        kind, default = Prompt | Annotated[list[Prompt], Field(max_length=option.most)], ""
    elif option.prompt:
        kind = Prompt
    elif name in ("object", "not_object"):
        clicks = list[Annotated[str, Field(pattern=f"^{CLICK}$")]]
        kind, default = Annotated[clicks, Field(max_length=option.most)], []
    elif name == "lora":
        kind, default = Annotated[list[Annotated[str, Field(pattern=LORA)]], Field(max_length=4)], []
    elif kind == Size:
        kind, facts["pattern"] = str, SIZE
    else:
        facts |= {"ge": option.minimum, "gt": option.above, "le": MAXIMUM.get(name, option.maximum)}
        facts |= {"allow_inf_nan": False} if kind is float else {}
    return (kind | None if optional else kind), Field(default, **{key: v for key, v in facts.items() if v is not None})


if TYPE_CHECKING:
    JobRequest = JobBase
else:
    JobRequest = create_model(
        "JobRequest",
        __base__=JobBase,
        **{name: body_field(name) for name in options(Request) if name not in SERVER_ONLY},
    )


class ExportRequest(BaseModel):
    """An export of layers by a preset; see docs/delivery.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preset: Preset
    size: str | None = Field(None, pattern=r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$")
    """WIDTHxHEIGHT."""
    edges: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    order: list[str] | None = Field(None, max_length=MOST_FOREGROUNDS)
    """Names of foregrounds from near to far, such as ["foreground-2", "foreground"]; by default as they are."""
    timecode: str = Field("00:00:00:00", pattern=r"^\d{2}:[0-5]\d:[0-5]\d:\d{2}$")


EXAMPLES = tuple(
    dict(zip(COMPONENTS, prompts, strict=True))
    for prompts in (
        ("a red balloon rising", "green hills under a blue sky"),
        ("a yellow star spinning", "a night sky with stars"),
        ("a blue car moving to the right", "a sunset"),
        ("a green apple bouncing", "purple and pink stripes"),
    )
)
"""Prompts of the example cards; the mini draws them in seconds."""
