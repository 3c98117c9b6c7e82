"""Settings of composite scenes."""

from __future__ import annotations

from dataclasses import dataclass, fields

NOT_SHARES = ("smallest", "largest")


@dataclass(frozen=True)
class Composites:
    """Shares of scenes, in [0, 1] and independent of each other unless stated, and the range of the objects' size."""

    second: float = 0.35
    """Share of scenes, in [0, 1], with a second foreground behind the first."""
    joined: float = 0.3
    """Share of these, in [0, 1], of which either belongs to the background: moving things are not always meant."""
    shapes: float = 0.33
    """Share of foregrounds, in [0, 1], that are random shapes filled with a patch of another photograph."""
    animated: float = 0.55
    """Share of the other foregrounds, in [0, 1], that are sprites with several phases."""
    warped: float = 0.6
    """Share of foregrounds, in [0, 1], with a smooth non-rigid warp that varies slowly in time."""
    moving_camera: float = 0.65
    """Share of scenes, in [0, 1], whose camera pans, zooms, turns or shakes."""
    anchored: float = 0.4
    """Share of foregrounds under a moving camera, in [0, 1], that move relative to the background, not the frame."""
    panoramas: float = 0.15
    """Share of scenes, in [0, 1], with a perspective view into a panorama; the rest of these kinds are photographs."""
    films: float = 0.15
    """Share of scenes, in [0, 1], with a film shot as background."""
    plain: float = 0.1
    """Share of scenes, in [0, 1], with a flat colour, a gradient or a texture as background."""
    parallax: float = 0.3
    """Share of photographs under a moving camera, in [0, 1], whose lower part moves faster than the upper."""
    clutter: float = 0.25
    """Share of scenes, in [0, 1], with one to three still things that belong to the background; not for films."""
    occluders: float = 0.25
    """Share of these things, in [0, 1], that stand before the foregrounds and hide them."""
    groups: float = 0.12
    """Share of sprites as foregrounds, in [0, 1], that come in twos to fours within one layer."""
    textured: float = 0.12
    """Share of sprites as foregrounds, in [0, 1], whose colours are mixed with a patch of a photograph."""
    see_through: float = 0.15
    """Share of foregrounds, in [0, 1], with an opacity of 0.35 to 0.8 or a wide soft edge."""
    harmonised: float = 0.5
    """Share of foregrounds, in [0, 1], whose mean and contrast are shifted towards the background's."""
    light: float = 0.6
    """Share of layers, in [0, 1], with another exposure, gamma and tint."""
    defocus: float = 0.3
    """Share of layers, in [0, 1], that are blurred."""
    motion_blur: float = 0.1
    """Share of scenes, in [0, 1], with motion blur, averaged over sub-frames."""
    grain: float = 0.5
    """Share of scenes, in [0, 1], with noise on each layer."""
    vignette: float = 0.2
    """Share of scenes, in [0, 1], that darken towards the corners."""
    fading: float = 0.15
    """Share of scenes, in [0, 1], whose brightness changes over time."""
    shadow: float = 0.15
    """Share of scenes, in [0, 1], whose foregrounds cast a shadow on the background of the blended clip."""
    compressed: float = 0.3
    """Share of scenes, in [0, 1], whose blended clip has JPEG or resampling artefacts, so that it is not exact."""
    smallest: float = 0.15
    """Least height of an object relative to the frame's, in (0, 1]; heights are log-uniform."""
    largest: float = 0.75
    """Largest height of an object relative to the frame's, in (0, 1], at least `smallest`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if field.name not in NOT_SHARES and not 0 <= share <= 1:
                raise ValueError(f"{field.name} {share} is not a share in [0, 1]")
        if self.panoramas + self.films + self.plain > 1:
            raise ValueError(
                f"panoramas {self.panoramas}, films {self.films} and plain {self.plain} are shares of the same scenes "
                "and must add up to at most 1"
            )
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(f"smallest {self.smallest} and largest {self.largest} must rise within (0, 1]")
