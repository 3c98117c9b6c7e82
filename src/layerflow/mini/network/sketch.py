"""What prompts and moment alone say of a frame: two small networks that draw it before the backbone sees any noise.

At pure noise the mean of all frames with these prompts is all that can be predicted, and it takes no pixels to learn:
these networks learn it from captions and small pictures in minutes (`mini.fitting.sketch`), where the backbone
would take hours. Both give the least-squares answer; what prompts leave open is the backbone's to decide.

Letters in shape comments: B batch, F frames of one clip, N = B*F, L layers, R whitened text channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import LAYERS
from ...models.layout import Layout

SCENE_SIZE = 16
"""Height and width of the sketched scene, whatever the frame's size."""
SCENE_PLANES = 7
"""Foreground, alpha, background."""
OBJECT_SIZE = 64
"""Height and width of the sketched object's frame."""
OBJECT_PLANES = 4
"""Foreground and alpha."""
SPRITE_SIZE = 36
SPRITE_EXTENT = 0.5
"""Side of the sprite before its pose is learnt, as a share of the frame's."""
SENSES = 256
"""Things that a prompt can mean, each with a drawing of its own."""
MOTION_SENSES, PLACE_SENSES = 16, 8
EMPTY = 0.003
"""A matte that covers less than this share of its frame has no place."""
FRAME_CODE = 64
_STYLE = 24


def zeroed(layer: nn.Module) -> nn.Module:
    """A layer that gives zero until it has learnt something."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class PromptMoment(nn.Module):
    """Prompts and moment to features (B, F, width): a sum and a product of both, and a hidden layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.text = nn.Linear(len(LAYERS) * channels, width)
        self.frame = nn.Linear(FRAME_CODE, width)
        # "rising" at the first frame looks like "falling" at the last: a product tells them apart, a sum hardly.
        self.moment_text = nn.Linear(len(LAYERS) * channels, width)
        self.moment_frame = nn.Linear(FRAME_CODE, width)
        self.hidden = nn.Linear(width, width)

    def forward(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Mean text states (B, L, R) and frame codes (B, F, 64)."""
        text = mean.flatten(1)[:, None]
        x = self.text(text) + self.frame(frame_code) + self.moment_text(text) * self.moment_frame(frame_code)
        x = F.gelu(x, approximate="tanh")
        return x + F.gelu(self.hidden(x), approximate="tanh")


class SceneSketch(nn.Module):
    """The mean scene, coarsely: foreground, alpha and background in model space, (N, 7, 16, 16)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = PromptMoment(channels, width)
        self.narrow = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, SCENE_PLANES * SCENE_SIZE**2)

    def forward(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Mean text states (B, L, R) and frame codes (B, F, 64) to planes (B*F, 7, 16, 16)."""
        x = self.out(F.gelu(self.narrow(self.features(mean, frame_code)), approximate="tanh"))
        return x.flatten(0, 1).unflatten(1, (SCENE_PLANES, SCENE_SIZE, SCENE_SIZE))


class SpriteDecoder(nn.Module):
    """Prompts to a sprite of the object, (B, 4, 36, 36): premultiplied colour and alpha.

    What is drawn is a choice among senses, so that words never met before end at the nearest of them and not between
    two drawings; how it is drawn (colour, how see-through it is) are a few numbers beside it.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.coarse = SPRITE_SIZE // 4
        self.features = nn.Sequential(
            nn.Linear(len(LAYERS) * channels, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh")
        )
        self.to_senses = nn.Linear(width, SENSES)
        self.to_style = nn.Linear(width, _STYLE)
        self.to_coarse = nn.Sequential(
            nn.Linear(SENSES + _STYLE, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh"),
            nn.Linear(width, 32 * self.coarse**2),
        )  # fmt: skip
        self.drawing = nn.Sequential(
            nn.Conv2d(32, 4 * 32, 3, padding=1), nn.PixelShuffle(2), nn.GELU("tanh"),
            nn.Conv2d(32, 4 * 24, 3, padding=1), nn.PixelShuffle(2), nn.GELU("tanh"),
            nn.Conv2d(24, OBJECT_PLANES, 3, padding=1),
        )  # fmt: skip

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean text states (B, L, R) to sprites, colour in [-1, 1], alpha in [0, 1], and scores (B, 256) of senses."""
        features = self.features(mean.flatten(1))
        scores = self.to_senses(features)
        chosen = torch.cat([scores.softmax(-1), self.to_style(features).tanh()], dim=-1)
        drawn = self.drawing(self.to_coarse(chosen).unflatten(1, (32, self.coarse, self.coarse))).float()
        alpha = drawn[:, 3:].sigmoid()
        sprite = torch.cat([drawn[:, :3].tanh() * alpha, alpha], dim=1)  # premultiplied: resampling keeps edges
        return sprite, scores


@dataclass
class Pose:
    """Where N sprites lie on their frames."""

    place: Tensor
    """(N, 2) centre in half frames from the middle, x and y."""
    turn: Tensor
    """(N, 2) cosine and sine of the angle, divided by the size; (0, 0) is upright at the size `SPRITE_EXTENT`."""


class PoseDecoder(nn.Module):
    """Prompts and moment to the pose of the object: a choice among motions, each a path of its own, and among places.

    What decides is a choice here too: between two paths there is none that anybody asked for.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(len(LAYERS) * channels, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh")
        )
        self.to_motions = nn.Linear(width, MOTION_SENSES)
        self.to_places = nn.Linear(width, PLACE_SENSES)
        self.path = nn.Linear(MOTION_SENSES, FRAME_CODE)
        self.along = nn.Sequential(nn.Linear(3 * FRAME_CODE, 128), nn.GELU("tanh"), zeroed(nn.Linear(128, 4)))
        self.place = zeroed(nn.Linear(PLACE_SENSES, 2, bias=False))

    def forward(self, mean: Tensor, frame_code: Tensor) -> tuple[Pose, Tensor, Tensor]:
        """Mean text states (B, L, R) and frame codes (B, F, 64) to the poses of B*F sprites, and the scores of motions
        (B, 16) and places (B, 8)."""
        features = self.features(mean.flatten(1))
        motions, places = self.to_motions(features), self.to_places(features)
        path = self.path(motions.softmax(-1))[:, None].expand_as(frame_code)
        place, turn = self.along(torch.cat([path, frame_code, path * frame_code], dim=-1)).float().split(2, dim=-1)
        place = place + self.place(places.softmax(-1)).float()[:, None]
        return Pose(place.flatten(0, 1), turn.flatten(0, 1)), motions, places


class ObjectSketch(nn.Module):
    """The foreground's object as a sprite that is moved: foreground and alpha in model space, (N, 4, 64, 64).

    What an object looks like and where it stands are learnt apart: the sprite depends on the prompts alone, its pose
    (place, size, angle) on prompts and moment, and a spatial transformer (arXiv 1506.02025) lays one by the other.
    What prompts leave open of its place and size is no blur but a number of its own, the *placement*: measured in
    training (`placement_between`), drawn by lot when a video is made.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.looks = SpriteDecoder(channels, width * 3 // 4)
        self.poses = PoseDecoder(channels, width // 2)

    def pose(self, mean: Tensor, frame_code: Tensor) -> Pose:
        """Mean text states (B, L, R) and frame codes (B, F, 64) to the poses of B*F sprites."""
        return self.poses(mean, frame_code)[0]

    def forward(self, mean: Tensor, frame_code: Tensor, placement: Tensor | None = None) -> Tensor:
        """Mean text states (B, L, R), frame codes (B, F, 64) and placements (B, 3) to planes (B*F, 4, 64, 64)."""
        frames = frame_code.shape[1]
        sprite = self.looks(mean)[0].repeat_interleave(frames, dim=0)
        if placement is not None:
            placement = placement.repeat_interleave(frames, dim=0)
        return lay(sprite, self.pose(mean, frame_code), placement)


def lay(sprite: Tensor, pose: Pose, placement: Tensor | None = None, size: int = OBJECT_SIZE) -> Tensor:
    """Sprites (N, 4, S, S) on empty frames: foreground and alpha in model space, (N, 4, size, size).

    Args:
        sprite: premultiplied colour in [-1, 1] and alpha in [0, 1].
        pose: of each.
        placement: (N, 3) shift to the right and down in half frames and logarithm of a factor on the size; none if
            None.
        size: height and width of the frames.
    """
    cosine, sine = pose.turn[:, 0] + 1 / SPRITE_EXTENT, pose.turn[:, 1]
    x, y = pose.place.unbind(1)
    if placement is not None:
        x, y = x + placement[:, 0], y + placement[:, 1]
        shrunk = torch.exp(-placement[:, 2])
        cosine, sine = cosine * shrunk, sine * shrunk
    # Turned and scaled about the sprite's centre (x, y).
    rows = [
        torch.stack([cosine, sine, -cosine * x - sine * y], dim=-1),
        torch.stack([-sine, cosine, sine * x - cosine * y], dim=-1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(x), OBJECT_PLANES, size, size], align_corners=False)
    planes = F.grid_sample(sprite, grid, align_corners=False)
    return torch.cat([planes[:, :3], planes[:, 3:] * 2 - 1], dim=1)


def placement_between(drawn: Tensor, true: Tensor, limit: float) -> Tensor:
    """By how much true mattes lie beside drawn ones: (B, 3), shift to the right and down in half frames and logarithm
    of the size, each within `limit`; 0 where a matte is empty.

    Args:
        drawn, true: alpha (B, F, h, w) in model space, of any two sizes.
        limit: the most that is believed; what differs by more is another pose.
    """
    moments = []
    for alpha in (drawn, true):
        cover = ((alpha.float() + 1) / 2).clamp(0, 1)
        mass = cover.sum((2, 3))  # (B, F)
        columns = torch.linspace(-1, 1, 2 * cover.shape[3] + 1, device=alpha.device)[1::2]
        rows = torch.linspace(-1, 1, 2 * cover.shape[2] + 1, device=alpha.device)[1::2]
        x = (cover.sum(2) * columns).sum(2) / mass.clamp(min=1e-6)
        y = (cover.sum(3) * rows).sum(2) / mass.clamp(min=1e-6)
        share = mass / (cover.shape[2] * cover.shape[3])
        moments.append((torch.stack([x, y, 0.5 * share.clamp(min=1e-6).log()], dim=-1), share > EMPTY))  # (B, F, 3)
    (one, here), (other, there) = moments
    counts = (here & there).float()[..., None]
    return ((other - one).clamp(-limit, limit) * counts).sum(1) / counts.sum(1).clamp(min=1)


class SketchReader(nn.Module):
    """Adds a sketch to a level's features, gated by the conditioning vector; zero until it has learnt something."""

    def __init__(self, planes: int, channels: int, cond_dim: int, patch_size: int = 1) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.widen = nn.Conv2d(planes * patch_size**2, 32, 3, padding=1)
        self.out = zeroed(nn.Conv2d(32, channels, 3, padding=1))
        self.gate = zeroed(nn.Linear(cond_dim, 32))

    def forward(self, x: Tensor, sketch: Tensor, cond: Tensor) -> Tensor:
        sketch = sketch.to(self.widen.weight.dtype)  # poses are kept in float32
        size = [self.patch_size * side for side in x.shape[-2:]]
        if list(sketch.shape[-2:]) != size:
            sketch = F.interpolate(sketch, size, mode="bilinear")
        sketch = F.pixel_unshuffle(sketch, self.patch_size)
        h = F.silu(self.widen(sketch.contiguous(memory_format=torch.channels_last)))
        return x + self.out(h * (1 + self.gate(cond)[:, :, None, None]))


class Sketch(nn.Module):
    """Both sketches."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.scene = SceneSketch(channels, width)
        self.object = ObjectSketch(channels, width)

    def forward(self, mean: Tensor, frame_code: Tensor, placement: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean text states (B, L, R), frame codes (B, F, 64) and placements (B, 3) to scene (N, 7, 16, 16) and object
        (N, 4, 64, 64)."""
        return self.scene(mean, frame_code), self.object(mean, frame_code, placement)


def follow_sketch(drawn: dict[str, Tensor], sketch: Tensor, trust: Tensor) -> dict[str, Tensor]:
    """Clips whose foreground and alpha follow the object's sketch where it is trusted: to draw it again would blur it.

    Args:
        drawn: clips (B, F, C, H, W) by name, of which any may be missing, alpha with one channel.
        sketch: (B*F, 4, 64, 64) foreground and alpha in model space.
        trust: (B, F, 1, H, W); 0 leaves what was drawn, 1 takes the sketch.
    """
    if sketch.shape[-2:] != trust.shape[-2:]:
        sketch = F.interpolate(sketch, trust.shape[-2:], mode="bilinear")
    sketch = sketch.unflatten(0, trust.shape[:2]).to(trust.dtype)
    sketched = {"foreground": sketch[:, :, :-1], "alpha": sketch[:, :, -1:]}
    return drawn | {name: drawn[name] + trust * (sketched[name] - drawn[name]) for name in sketched if name in drawn}


def scene_target(sequence: Tensor, layout: Layout) -> Tensor:
    """What the sketch of a clean sequence's scene (B, K*F, C, H, W) should show: (B*F, 7, 16, 16)."""
    clips = layout.unpack(sequence)
    planes = torch.cat([clips["foreground"], clips["alpha"][:, :, :1], clips["background"]], dim=2).flatten(0, 1)
    return F.adaptive_avg_pool2d(planes, SCENE_SIZE)
