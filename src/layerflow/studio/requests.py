"""What clients may ask for, checked before it is queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..core.schema import CLIPS
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
    """Where a given clip comes from: an upload, or a clip of another job."""

    model_config = ConfigDict(extra="forbid", strict=True)

    upload: Identifier | None = None
    job: Identifier | None = None
    clip: Clip | None = None
    """Of the job; by default the one of the same name."""

    @model_validator(mode="after")
    def _one_source(self) -> Given:
        if (self.upload is None) == (self.job is None):
            raise ValueError("name either an upload or a job")
        return self


class JobRequest(BaseModel):
    """A job. The task follows from which clips are given; what is left out is as the model has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    foreground: Prompt = ""
    background: Prompt = ""
    blended: Prompt | None = None
    given: dict[Clip, Given] = Field(default_factory=dict)
    seed: int = Field(0, ge=0, lt=2**53)
    """Up to what a browser's numbers hold exactly."""
    steps: int | None = Field(None, ge=1, le=200)
    guidance: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    noise_scale: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    frames: int | None = Field(None, ge=1, le=1000)
    size: str | None = Field(None, pattern=SIZE)
    """WIDTHxHEIGHT."""
    upscale: int | None = Field(None, ge=1, le=16)
    fps: float | None = Field(None, gt=0, le=240, allow_inf_nan=False)
    session: str = Field("", pattern=r"^[0-9a-zA-Z_-]{0,64}$")
    """A name that the client makes up, to list its own jobs by."""

    @model_validator(mode="after")
    def _can_be_done(self) -> JobRequest:
        if len(self.given) == 4:
            raise ValueError("every clip is given, so nothing is left to make; leave one out")
        if not self.given and not (self.foreground.strip() and self.background.strip()):
            raise ValueError("without a given clip, prompts for foreground and background are needed")
        return self

    def kept(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return self.model_dump(exclude={"session"}, exclude_none=True)


class ExportRequest(BaseModel):
    """How layers are to be exported; see docs/delivery.md."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preset: Preset
    size: str | None = Field(None, pattern=r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$")
    """WIDTHxHEIGHT."""
    edges: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    timecode: str = Field("00:00:00:00", pattern=r"^\d{2}:[0-5]\d:[0-5]\d:\d{2}$")


EXAMPLES = (
    {"foreground": "a red balloon rising", "background": "green hills under a blue sky"},
    {"foreground": "a yellow star spinning", "background": "a night sky with stars"},
    {"foreground": "a blue car moving to the right", "background": "a sunset"},
    {"foreground": "a green apple bouncing", "background": "purple and pink stripes"},
)
"""Prompts of the example cards; the mini draws them in seconds."""
