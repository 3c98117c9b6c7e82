"""Bodies of requests, validated before a job is queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from ..core.schema import CLIPS, COMPONENTS
from ..generation.request import Request, Size, field_of, options, type_of
from .store import IDENTIFIER

if TYPE_CHECKING:
    Clip = str
else:  # a type checker takes no computed literal
    Clip = Literal[*CLIPS]
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

    given: dict[Clip, Given] = Field(default_factory=dict)
    session: str = Field("", pattern=r"^[0-9a-zA-Z_-]{0,64}$", description="Name by which the client lists its jobs.")

    @model_validator(mode="after")
    def _can_be_done(self) -> JobBase:
        if len(self.given) == len(CLIPS):
            raise ValueError("every clip is given, so nothing is left to make; leave one out")
        if not self.given and not all(str(getattr(self, layer)).strip() for layer in COMPONENTS):
            raise ValueError("without a given clip, prompts for foreground and background are needed")
        return self

    def kept(self) -> dict[str, Any]:
        """Return the fields that were set, for the manifest."""
        return self.model_dump(exclude={"session"}, exclude_none=True, exclude_unset=True)


def body_field(name: str) -> tuple[Any, Any]:
    """Return type and `Field` of a request's field in the body of a job."""
    option, (kind, optional) = options(Request)[name], type_of(Request, name)
    default = field_of(Request, name).default
    facts: dict[str, Any] = {"description": option.help}
    if option.prompt:
        kind = Prompt
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
