"""What prompts and moment alone say of a frame: two small networks that draw it before the backbone sees any noise.

At pure noise the mean of all frames with these prompts is all that can be predicted, and it takes no pixels to learn:
these networks learn it from captions and small pictures in minutes (`layerflow.training.sketch`), where the backbone
would take hours. Both give the least-squares answer; what prompts leave open is the backbone's to decide.

Letters in shape comments: B batch, F frames of one clip, N = B*F, L layers, R whitened text channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import LAYERS, Layout

SCENE_SIZE = 16
"""Height and width of the sketched scene, whatever the frame's size."""
SCENE_PLANES = 7
"""Foreground, alpha, background."""
OBJECT_SIZE = 32
"""Height and width of the sketched object's frame."""
OBJECT_PLANES = 4
"""Foreground and alpha."""
SPRITE_SIZE = 24
SPRITE_EXTENT = 0.5
"""Side of the sprite before its pose is learnt, as a share of the frame's."""
QUARTERS = 4
"""Quarter turns that a pose starts from."""
FRAME_CODE = 64


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


class ObjectSketch(nn.Module):
    """The foreground's object as a sprite that is moved: foreground and alpha in model space, (N, 4, 32, 32).

    What an object looks like and where it stands are learnt apart: the sprite depends on the prompts alone, its pose
    (place, size, angle) on prompts and moment, and a spatial transformer (arXiv 1506.02025) lays one by the other.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.looks = nn.Sequential(
            nn.Linear(len(LAYERS) * channels, width), nn.GELU("tanh"), nn.Linear(width, width), nn.GELU("tanh"),
            nn.Linear(width, OBJECT_PLANES * SPRITE_SIZE**2),
        )  # fmt: skip
        self.features = PromptMoment(channels, width // 2)
        self.pose = zeroed(nn.Linear(width // 2, 4 + QUARTERS))

    def forward(self, mean: Tensor, frame_code: Tensor) -> Tensor:
        """Mean text states (B, L, R) and frame codes (B, F, 64) to planes (B*F, 4, 32, 32)."""
        frames = frame_code.shape[1]
        sprite = self.looks(mean.flatten(1)).float().unflatten(1, (OBJECT_PLANES, SPRITE_SIZE, SPRITE_SIZE))
        alpha = sprite[:, 3:].sigmoid()
        sprite = torch.cat([sprite[:, :3].tanh() * alpha, alpha], dim=1)  # premultiplied: resampling keeps edges
        sprite = sprite.repeat_interleave(frames, dim=0)
        pose, quarters = self.pose(self.features(mean, frame_code)).float().flatten(0, 1).split([4, QUARTERS], dim=1)
        weights = quarters.softmax(dim=1)[..., None, None, None]  # (N, 4, 1, 1, 1)
        # By gradient alone a sprite does not find out that it should lie on its side or head: there, turning it a
        # little does not help. Which quarter turn it starts from is therefore a choice of its own.
        turned = torch.stack([torch.rot90(sprite, turns, (2, 3)) for turns in range(QUARTERS)], dim=1)
        planes = F.grid_sample((turned * weights).sum(1), self.grid(pose), align_corners=False)
        return torch.cat([planes[:, :3], planes[:, 3:] * 2 - 1], dim=1)

    def grid(self, pose: Tensor) -> Tensor:
        """Poses (N, 4) to where each pixel of the frame lies on the sprite: (N, 32, 32, 2)."""
        x, y = pose[:, 0], pose[:, 1]
        cosine, sine = pose[:, 2] + 1 / SPRITE_EXTENT, pose[:, 3]
        # Turned and scaled about the sprite's centre (x, y).
        rows = [
            torch.stack([cosine, sine, -cosine * x - sine * y], dim=-1),
            torch.stack([-sine, cosine, sine * x - cosine * y], dim=-1),
        ]
        size = [pose.shape[0], OBJECT_PLANES, OBJECT_SIZE, OBJECT_SIZE]
        return F.affine_grid(torch.stack(rows, dim=1), size, align_corners=False)


class SketchReader(nn.Module):
    """Adds a sketch to a level's features, gated by the conditioning vector; zero until it has learnt something."""

    def __init__(self, planes: int, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(planes, 32, 3, padding=1)
        self.out = zeroed(nn.Conv2d(32, channels, 3, padding=1))
        self.gate = zeroed(nn.Linear(cond_dim, 32))

    def forward(self, x: Tensor, sketch: Tensor, cond: Tensor) -> Tensor:
        sketch = sketch.to(self.widen.weight.dtype)  # poses are kept in float32
        if sketch.shape[-2:] != x.shape[-2:]:
            sketch = F.interpolate(sketch, x.shape[-2:], mode="bilinear")
        h = F.silu(self.widen(sketch.contiguous(memory_format=torch.channels_last)))
        return x + self.out(h * (1 + self.gate(cond)[:, :, None, None]))


class Sketch(nn.Module):
    """Both sketches."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.scene = SceneSketch(channels, width)
        self.object = ObjectSketch(channels, width // 2)

    def forward(self, mean: Tensor, frame_code: Tensor) -> tuple[Tensor, Tensor]:
        """Mean text states (B, L, R) and frame codes (B, F, 64) to scene (N, 7, 16, 16) and object (N, 4, 32, 32)."""
        return self.scene(mean, frame_code), self.object(mean, frame_code)


def sketch_targets(sequence: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """What the sketches of a clean sequence (B, K*F, C, H, W) should show: (N, 7, 16, 16) and (N, 4, 32, 32)."""
    clips = layout.unpack(sequence)
    planes = torch.cat([clips["foreground"], clips["alpha"][:, :, :1], clips["background"]], dim=2).flatten(0, 1)
    scene = F.adaptive_avg_pool2d(planes, SCENE_SIZE)
    return scene, F.adaptive_avg_pool2d(planes[:, :OBJECT_PLANES], OBJECT_SIZE)


def sketch_error(drawn: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared errors of both sketches, added.

    The object counts again at a quarter of its size: there a sprite still overlaps its target when it lies off by half
    its width, so that poses are found by following the gradient.
    """
    errors = [F.mse_loss(sketch.float(), target) for sketch, target in zip(drawn, targets, strict=True)]
    coarse = F.mse_loss(F.avg_pool2d(drawn[1].float(), 4), F.avg_pool2d(targets[1], 4))
    return errors[0] + errors[1] + coarse
