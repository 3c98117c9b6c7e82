"""Sketches: two small networks that draw a frame from its prompts and its moment in the clip, without noise.

At pure noise the mean of all frames with these prompts is the best prediction. These networks learn it from captions
and small pictures in minutes (`mini.fitting.sketch`), where the backbone would take hours. Both give the least-squares
answer; the backbone decides whatever the prompts leave open.

Letters in shape comments: B batch, F frames of one clip, N = B*F, L layers, R whitened text channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.schema import ALPHA_OF, BLENDED, CHANNELS, CLIPS, FOREGROUND, LAYERS
from ...models.layout import Layout
from ..world.art_objects import LOOP
from ..world.motions import BASE_WIDTH, MOTIONS, UNITS
from .carrying import Course, carry, spots
from .sprite_book import CHANCES, BookSizes, SpriteBook

SCENE_SIZE = 16
"""Height and width of the sketched scene at any frame size."""
SCENE_PLANES = 7
"""Channels of foreground, alpha and background."""
OBJECT_SIZE = 64
"""Height and width of the sketched object's frame."""
OBJECT_FRAME = (OBJECT_SIZE, OBJECT_SIZE)
BOOK_EXTENT = BASE_WIDTH / UNITS
"""Side of a sprite of the book as a share of the frame's, upright and at its usual size."""
MIRRORED = list(MOTIONS).index("moving right")
"""Motion in which a sprite of the book is mirrored: pictures from the side look to the left."""
OBJECT_CHANCES = CHANCES + 1
"""Random numbers for an object of the book: of its concept, its style and its phase at position 0."""
BESIDE = 0.8
"""Distance in half frames at which objects stand beside each other, and below which two of them are put apart."""
BY_CHANCE = 0.2
"""Difference in half frames below which chance decides which of two objects stands on the left."""
BESIDE_SIZE = {2: 0.8, 3: 0.65}
"""Factor on the size of objects in a row, by their number."""
OBJECT_PLANES = 4
"""Channels of foreground and alpha."""
SPRITE_SIZE = 36
"""Height and width of the sprite in pixels."""
SPRITE_EXTENT = 0.5
"""Side of an untrained sprite as a share of the frame's."""
SENSES = 256
"""Number of objects, each with its own drawing, among which a prompt chooses."""
MOTION_SENSES, PLACE_SENSES = 16, 8
"""Number of motions and of places among which a prompt chooses."""
FRAME_CODE = 64
"""Channels of an encoded frame position."""
_STYLE = 24  # channels of colour and transparency


def zeroed(layer: nn.Module) -> nn.Module:
    """Set the parameters of a layer to zero, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class PromptMoment(nn.Module):
    """Features (B, F, width) of prompts and moment: a sum and a product of both, and a hidden layer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.text = nn.Linear(len(LAYERS) * channels, width)
        self.frame = nn.Linear(FRAME_CODE, width)
        # "rising" at the first frame looks like "falling" at the last: a product tells them apart, a sum hardly.
        self.moment_text = nn.Linear(len(LAYERS) * channels, width)
        self.moment_frame = nn.Linear(FRAME_CODE, width)
        self.hidden = nn.Linear(width, width)

    def forward(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Map mean text states (B, L, R) and frame codes (B, F, 64) to features (B, F, width)."""
        text = mean.flatten(1)[:, None]  # (B, 1, L*R)
        x = self.text(text) + self.frame(frame_code) + self.moment_text(text) * self.moment_frame(frame_code)
        x = F.gelu(x, approximate="tanh")
        return x + F.gelu(self.hidden(x), approximate="tanh")


class SceneSketch(nn.Module):
    """Coarse mean scene: foreground, alpha and background in model space, (N, 7, 16, 16)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = PromptMoment(channels, width)
        self.narrow = nn.Linear(width, width // 2)
        self.out = nn.Linear(width // 2, SCENE_PLANES * SCENE_SIZE**2)

    def forward(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Map mean text states (B, L, R) and frame codes (B, F, 64) to planes (N, 7, 16, 16)."""
        x = self.out(F.gelu(self.narrow(self.features(mean, frame_code)), approximate="tanh"))
        return x.flatten(0, 1).unflatten(1, (SCENE_PLANES, SCENE_SIZE, SCENE_SIZE))  # (N, 7, 16, 16)


class SpriteDecoder(nn.Module):
    """Sprite of the prompted object, (B, 4, 36, 36): premultiplied colour and alpha.

    The drawing is a softmax choice among objects, so that an unknown word selects the nearest one instead of a mixture
    of two. Colour and transparency are a few continuous numbers.
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
            nn.Linear(SENSES + _STYLE, width),
            nn.GELU("tanh"),
            nn.Linear(width, width),
            nn.GELU("tanh"),
            nn.Linear(width, 32 * self.coarse**2),
        )
        self.drawing = nn.Sequential(
            nn.Conv2d(32, 4 * 32, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GELU("tanh"),
            nn.Conv2d(32, 4 * 24, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GELU("tanh"),
            nn.Conv2d(24, OBJECT_PLANES, 3, padding=1),
        )

    def forward(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Map mean text states (B, L, R) to sprites (B, 4, 36, 36) and logits (B, 256) of objects."""
        features = self.features(mean.flatten(1))
        scores = self.to_senses(features)
        chosen = torch.cat([scores.softmax(-1), self.to_style(features).tanh()], dim=-1)
        drawn = self.drawing(self.to_coarse(chosen).unflatten(1, (32, self.coarse, self.coarse))).float()
        alpha = drawn[:, 3:].sigmoid()  # (B, 1, 36, 36)
        sprite = torch.cat([drawn[:, :3].tanh() * alpha, alpha], dim=1)  # premultiplied, so that resampling keeps edges
        return sprite, scores


@dataclass
class Pose:
    """Poses of N sprites on their frames."""

    place: Tensor
    """(N, 2) centre x and y in half frames from the middle."""
    turn: Tensor
    """(N, 2) cosine and sine of the angle, divided by the size; (0, 0) is upright at the size `SPRITE_EXTENT`."""


class PoseDecoder(nn.Module):
    """Pose of the object by prompts and moment: a softmax choice among motions, each with a path, and among places.

    It is a choice because a mixture of two paths would match no prompt.
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
        """Map mean text states (B, L, R) and frame codes (B, F, 64) to N poses, and logits of motions (B, 16) and of
        places (B, 8)."""
        features = self.features(mean.flatten(1))
        motions, places = self.to_motions(features), self.to_places(features)
        path = self.path(motions.softmax(-1))[:, None].expand_as(frame_code)
        place, turn = self.along(torch.cat([path, frame_code, path * frame_code], dim=-1)).float().split(2, dim=-1)
        place = place + self.place(places.softmax(-1)).float()[:, None]
        return Pose(place.flatten(0, 1), turn.flatten(0, 1)), motions, places


class ObjectSketch(nn.Module):
    """Object as a moving sprite: foreground and alpha in model space.

    Appearance and pose are learnt separately: the sprite depends on the prompts and, in a book, on the phase of its own
    motion; its pose (place, size, angle) on prompts and moment; a spatial transformer (arXiv 1506.02025) combines both.
    What prompts leave open would blur the mean, so it is a separate input, measured in training and random in sampling:
    place and size, the *placement* (`placement_between`), and the *chances* that choose a look of the book.

    Args:
        channels: channels R of mean text states.
        width: hidden channels.
        book: sizes of the sprite book; without one, a small network draws a still sprite for each of a few objects.
    """

    def __init__(self, channels: int, width: int, book: BookSizes | None = None) -> None:
        super().__init__()
        if book is None:
            self.looks = SpriteDecoder(channels, width * 3 // 4)
        else:
            self.book = SpriteBook(channels, book)
        self.poses = PoseDecoder(channels, width // 2)

    @property
    def has_book(self) -> bool:
        """Whether sprites come from a book."""
        return hasattr(self, "book")

    def pose(self, mean: Tensor, frame_code: Tensor) -> Pose:
        """Map mean text states (B, L, R) and frame codes (B, F, 64) to N poses."""
        pose: Pose = self.poses(mean, frame_code)[0]
        return pose

    def mirrored(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Return which objects of a book are mirrored, (B,) bool."""
        mirrored: Tensor = self.poses(mean, frame_code)[1].argmax(-1) == MIRRORED
        return mirrored

    def course(self, mean: Tensor, frame_code: Tensor) -> Course:
        """Return the course of the objects over their clips."""
        pose = self.pose(mean, frame_code)
        cosine, sine = (
            value.unflatten(0, frame_code.shape[:2])
            for value in (pose.turn + pose.turn.new_tensor([1 / SPRITE_EXTENT, 0.0])).unbind(1)
        )
        size = -torch.hypot(cosine, sine).clamp(min=1e-6).log()
        return Course(pose.place.unflatten(0, frame_code.shape[:2]), size, torch.atan2(sine, cosine))

    def forward(
        self,
        mean: Tensor,
        frame_code: Tensor,
        placement: Tensor | None = None,
        chance: Tensor | None = None,
        positions: Tensor | None = None,
        size: Sequence[int] = OBJECT_FRAME,
    ) -> Tensor:
        """Draw objects: planes (N, 4, 64, 64), or (N, 4, H, W) from a book.

        Args:
            mean: (B, L, R) mean text states.
            frame_code: (B, F, 64) frame codes.
            placement: (B, 3) see `place_sprite`.
            chance: (B, 3) uniform numbers in [0, 1) that choose concept, style and phase of a look; the likeliest look
                at phase 0 if None.
            positions: (B, F) position of each frame in its clip, in frames; for a book.
            size: height and width of the planes.
        """
        frames = frame_code.shape[1]
        if placement is not None:
            placement = placement.repeat_interleave(frames, dim=0)
        pose, motions, _ = self.poses(mean, frame_code)
        if not self.has_book:
            return place_sprite(self.looks(mean)[0].repeat_interleave(frames, dim=0), pose, placement)
        assert positions is not None
        phase = positions.float() / LOOP
        if chance is not None:
            phase = phase + chance[:, 2:]
        sprite, _ = self.book(mean, phase, None if chance is None else chance[:, :2])
        mirrored = (motions.argmax(-1) == MIRRORED).repeat_interleave(frames, dim=0)
        sprite = torch.where(mirrored.view(-1, 1, 1, 1), sprite.flip(-1), sprite)
        return place_sprite(sprite, pose, placement, size, BOOK_EXTENT)


def with_opacity(colour: Tensor, alpha: Tensor) -> Tensor:
    """Return premultiplied colour in [-1, 1] and alpha in [0, 1], (..., 4, H, W), of a foreground (..., 3, H, W) and
    its alpha (..., 1, H, W) in model space."""
    return torch.cat([colour, ((alpha + 1) / 2).clamp(0, 1)], dim=-3)


def place_sprite(
    sprite: Tensor,
    pose: Pose,
    placement: Tensor | None = None,
    size: Sequence[int] = OBJECT_FRAME,
    extent: float = SPRITE_EXTENT,
) -> Tensor:
    """Resample sprites onto empty frames: foreground and alpha in model space, (N, 4, H, W).

    Args:
        sprite: (N, 4, S, S) premultiplied colour in [-1, 1] and alpha in [0, 1].
        pose: poses of the sprites.
        placement: (N, 3) shift to the right and down in half frames, and logarithm of a factor on the size; zero if
            None.
        size: height H and width W of the frames.
        extent: side of an upright sprite as a share of the frame's shorter side.
    """
    factor = SPRITE_EXTENT / extent
    cosine, sine = factor * (pose.turn[:, 0] + 1 / SPRITE_EXTENT), factor * pose.turn[:, 1]
    x, y = pose.place.unbind(1)
    if placement is not None:
        x, y = x + placement[:, 0], y + placement[:, 1]
        shrunk = torch.exp(-placement[:, 2])
        cosine, sine = cosine * shrunk, sine * shrunk
    height, width = size
    across, down = width / min(size), height / min(size)  # a sprite is as high as wide, whatever the frame
    # Rotation and scale about the sprite's centre (x, y).
    rows = [
        torch.stack([across * cosine, down * sine, -across * cosine * x - down * sine * y], dim=-1),
        torch.stack([-across * sine, down * cosine, across * sine * x - down * cosine * y], dim=-1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [len(x), OBJECT_PLANES, height, width], align_corners=False)
    planes = F.grid_sample(sprite, grid, align_corners=False)
    return torch.cat([planes[:, :3], planes[:, 3:] * 2 - 1], dim=1)


def placement_between(drawn: Tensor, true: Tensor, limit: float) -> Tensor:
    """Return the placement that moves drawn mattes onto true ones.

    Args:
        drawn, true: alpha (B, F, h, w) in model space, of any two sizes.
        limit: largest placement; larger differences belong to the pose.

    Returns:
        (B, 3) shift to the right and down in half frames and logarithm of the size, 0 where a matte is empty.
    """
    one, other = (spots((alpha.float() + 1) / 2) for alpha in (drawn, true))
    apart = torch.cat([other.centre - one.centre, (other.size - one.size)[..., None]], dim=-1)  # (B, F, 3)
    counts = (one.there & other.there).float()[..., None]
    return (apart.clamp(-limit, limit) * counts).sum(1) / counts.sum(1).clamp(min=1)


class SketchReader(nn.Module):
    """What a sketch adds to the features of a level, gated by the conditioning vector; zero before training."""

    def __init__(self, planes: int, channels: int, cond_dim: int, patch_size: int = 1) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.widen = nn.Conv2d(planes * patch_size**2, 32, 3, padding=1)
        self.out = zeroed(nn.Conv2d(32, channels, 3, padding=1))
        self.gate = zeroed(nn.Linear(cond_dim, 32))

    def forward(self, sketch: Tensor, size: Sequence[int], cond: Tensor) -> Tensor:
        """Return what a sketch (N, planes, h, w) of any size adds to features (N, C, H, W) of a size (H, W) under the
        conditioning (N, E)."""
        sketch = sketch.to(self.widen.weight.dtype)  # poses stay in float32
        size = [self.patch_size * side for side in size]
        if list(sketch.shape[-2:]) != size:
            sketch = F.interpolate(sketch, size, mode="bilinear")
        sketch = F.pixel_unshuffle(sketch, self.patch_size)
        h = F.silu(self.widen(sketch.contiguous(memory_format=torch.channels_last)))
        read: Tensor = self.out(h * (1 + self.gate(cond)[:, :, None, None]))
        return read


class Known(NamedTuple):
    """A foreground, where it is known."""

    planes: Tensor
    """(B, F, 4, H, W) premultiplied colour in [-1, 1] and alpha in [0, 1]."""
    frames: Tensor
    """(B, F) bool, which frames are known."""


class Sketch(nn.Module):
    """Sketches of scene and object.

    Args:
        channels: channels R of mean text states.
        width: hidden channels.
        book: sizes of the sprite book, if there is one.
    """

    def __init__(self, channels: int, width: int, book: BookSizes | None = None) -> None:
        super().__init__()
        self.scene = SceneSketch(channels, width)
        self.object = ObjectSketch(channels, width, book)

    def forward(
        self,
        mean: Tensor,
        frame_code: Tensor,
        placement: Tensor | None = None,
        chance: Tensor | None = None,
        positions: Tensor | None = None,
        size: Sequence[int] = OBJECT_FRAME,
        known: Sequence[Known] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Sketch the scene with its nearest foreground, and the object of each foreground.

        Args:
            mean: (B, L, R) mean text states of layers, in the order of `prompt_layers`.
            frame_code: (B, F, 64) frame codes.
            placement: (B, 3 * A) placements of the objects of A foregrounds.
            chance: (B, 3 * A) chances of their looks, as for `ObjectSketch`.
            positions, size: as for `ObjectSketch`.
            known: for each foreground, what is known of it; it is carried to the other frames.

        Returns:
            Scene (N, 7, 16, 16) and A objects (N, 4, 64, 64), or (N, 4, H, W) from a book.
        """
        means = means_by_foreground(mean)
        each = len(means)
        if each > 1 and self.object.has_book:
            beside = self.side_by_side(means, frame_code, chance)
            placement = beside if placement is None else placement + beside
        places, chances = ([None] * each if x is None else x.chunk(each, dim=1) for x in (placement, chance))
        objects = []
        for number, own in enumerate(means):
            drawn = self.object(own, frame_code, places[number], chances[number], positions, size)
            if known:
                drawn = self.carried(drawn, known[number], own, frame_code)
            objects.append(drawn)
        return self.scene(means[0], frame_code), objects

    def side_by_side(self, means: Sequence[Tensor], frame_code: Tensor, chance: Tensor | None) -> Tensor:
        """Return placements (B, 3 * A) that put objects in a row where prompts put two of them at one place.

        Args:
            means: for each of A foregrounds, as for `ObjectSketch`.
            frame_code: (B, F, 64) frame codes.
            chance: (B, 3 * A) decides on the order where prompts do not; theirs if None.
        """
        count = len(means)
        centres = torch.stack(
            [self.object.course(mean, frame_code).place.mean(1) for mean in means], dim=1
        )  # (B, A, 2)
        pairs = [(n, m) for n in range(count) for m in range(n)]
        gaps = torch.stack([(centres[:, n] - centres[:, m]).norm(dim=1) for n, m in pairs])
        meet = gaps.amin(0) < BESIDE  # (B,)
        # From left to right as the prompts say, and by chance where they do not.
        across = centres[..., 0] + (0.0 if chance is None else BY_CHANCE * chance[:, ::OBJECT_CHANCES])
        row = BESIDE * torch.linspace(-1, 1, count, device=meet.device) * (count - 1) / count
        shift = torch.zeros(len(meet), count, 3, device=meet.device)
        shift[..., 0] = row[across.argsort(1).argsort(1)] - centres[..., 0]
        shift[..., 2] = math.log(BESIDE_SIZE[min(count, max(BESIDE_SIZE))])
        return torch.where(meet[:, None], shift.flatten(1), 0.0)

    def carried(self, drawn: Tensor, known: Known, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Return objects (N, 4, H, W) as their known frames show them, others as drawn."""
        if not known.frames.is_meta and not bool(known.frames.any()):
            return drawn
        planes, some = carry(known.planes.float(), known.frames, self.object.course(mean, frame_code))
        shown = torch.cat([planes[:, :, :3], 2 * planes[:, :, 3:] - 1], dim=2).flatten(0, 1)
        return torch.where(some.repeat_interleave(frame_code.shape[1]).view(-1, 1, 1, 1), shown, drawn)


def means_by_foreground(mean: Tensor) -> list[Tensor]:
    """Return mean text states (B, 3, R) as if each foreground were the only one, from those of all layers (B, L, R)."""
    count = mean.shape[1] - len(LAYERS) + 1
    layers = [LAYERS.index(FOREGROUND), *range(len(LAYERS), mean.shape[1])]
    return [mean[:, :3]] if count == 1 else [torch.cat([mean[:, n : n + 1], mean[:, 1:3]], dim=1) for n in layers]


def follow_sketch(
    drawn: dict[str, Tensor], sketch: Tensor, trust: Tensor, foreground: str = FOREGROUND
) -> dict[str, Tensor]:
    """Interpolate foreground and alpha towards the object's sketch, which is sharper than the network's own drawing.

    Args:
        drawn: clips (B, F, C, H, W) by name, any of them, alpha with one channel.
        sketch: (N, 4, 64, 64) foreground and alpha in model space.
        trust: (B, F, 1, H, W) weight of the sketch.
        foreground: layer of the object.
    """
    if sketch.shape[-2:] != trust.shape[-2:]:
        sketch = F.interpolate(sketch, trust.shape[-2:], mode="bilinear")
    sketch = sketch.unflatten(0, trust.shape[:2]).to(trust.dtype)  # (B, F, 4, H, W)
    sketched = {foreground: sketch[:, :, :-1], ALPHA_OF[foreground]: sketch[:, :, -1:]}
    return drawn | {name: drawn[name] + trust * (sketched[name] - drawn[name]) for name in sketched if name in drawn}


def scene_target(sequence: Tensor, layout: Layout) -> Tensor:
    """Return the target of the scene's sketch, (N, 7, 16, 16), for a clean sequence (B, K*F, C, H, W)."""
    clips = layout.unpack(sequence)
    planes = [clips[name][:, :, : CHANNELS[name]] for name in CLIPS if name != BLENDED]
    return F.adaptive_avg_pool2d(torch.cat(planes, dim=2).flatten(0, 1), SCENE_SIZE)
