"""Weights of a changed network from those of a trained one, so that it computes the same at first.

Letters in shape comments: O outputs, I inputs, k kernel, p patch size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError

BLOCK = re.compile(r"(down|up)\.\d+\.\d+\.|blocks\.\d+\.")
"""Names of parameters of repeated blocks."""
BRANCH_END = re.compile(r"attn\.to_out\.|\.mlp\.2\.")
"""Last layers of a transformer block's residual branches; a new convolutional block starts with zeros there."""
UNTRAINED = ("hint_stem.", "separation.", "place_", "sketch.object.book.")
"""Parts that are added untrained: without effect, for given videos alone, for further foregrounds alone, or loaded."""
REPLACED = re.compile(r"sketch\.object\.looks\.")
"""Parts that a sprite book replaces."""
BY_PLACE = re.compile(r"(^|\.)place(_\w+)?\.")
"""Parts that only networks of several foregrounds have."""
FOLDED_INPUTS = re.compile(r"stem\.weight|object_readers\.\d\.widen\.weight|hint_stem\.weight")
"""Convolutions whose inputs are pixels folded into channels."""
HEADS = re.compile(r"(head|copy_head|trust_head)\.(weight|bias)")
"""Convolutions whose outputs are pixels folded into channels, and whose inputs are features and folded pixels."""


def grown(model: Any, other: Any, changes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state of `other`, a network of another configuration, from that of a trained one.

    Raises:
        UserError: the weights do not fit.
    """
    state = dict(model.state_dict())
    before, after = model.config.patch_size, other.config.patch_size
    if after % before:
        raise UserError(f"patch_size {before} can only grow to a multiple, not to {after}")
    if after != before:
        width = model.config.widths[0]
        state = {name: enlarged(name, tensor, before, after, width) for name, tensor in state.items()}
    # An embedding that an ablation switches off stays zero.
    off = {name: tensor.detach() for name, tensor in other.named_parameters() if not tensor.requires_grad}
    off = {name: tensor for name, tensor in off.items() if not name.startswith("separation.")}
    for name, tensor in other.state_dict().items():
        known = state.get(name)
        if known is None and BLOCK.match(name):
            state[name] = torch.zeros_like(tensor) if BRANCH_END.search(name) else tensor
        elif known is None and name.startswith(UNTRAINED):
            state[name] = tensor
        elif known is None or known.shape != tensor.shape:
            raise UserError(f"the weights have other sizes than {dict(changes)}")
    own = other.state_dict()
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in own or not (BY_PLACE.search(name) or REPLACED.match(name))
    }
    if any(name not in own for name in state):
        raise UserError(f"the weights have other sizes than {dict(changes)}")
    return {**state, **off}


def enlarged(name: str, tensor: Tensor, before: int, after: int, width: int) -> Tensor:
    """Return a parameter for patches of another size: a patch is averaged on the way in and repeated on the way out.

    Args:
        name: of the parameter.
        tensor: its value for patches of `before` pixels.
        before, after: height and width of a patch.
        width: channels of the features that the heads take besides folded pixels.
    """
    if FOLDED_INPUTS.fullmatch(name):
        return averaged(tensor, 1, before, after)
    if HEADS.fullmatch(name):
        tensor = repeated(tensor, before, after)
        if tensor.dim() == 1:
            return tensor
        features, pixels = tensor[:, :width], tensor[:, width:]
        return torch.cat([features, averaged(pixels, 1, before, after)], dim=1)
    if name in ("head_modulation.weight", "head_modulation.bias"):
        features, pixels = tensor[: 2 * width], tensor[2 * width :]
        return torch.cat([features, repeated(pixels, before, after)])
    return tensor


def averaged(tensor: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Spread weights on the folded pixels in a dimension over larger patches; their sum stays the same."""
    factor = after // before
    return _spread(tensor, dim, before, factor) / factor**2


def repeated(tensor: Tensor, before: int, after: int) -> Tensor:
    """Repeat rows for folded pixels, in the first dimension, over larger patches."""
    return _spread(tensor, 0, before, after // before)


def _spread(tensor: Tensor, dim: int, side: int, factor: int) -> Tensor:
    planes = tensor.unflatten(dim, (-1, side, side))
    planes = planes.repeat_interleave(factor, dim + 1).repeat_interleave(factor, dim + 2)
    return planes.flatten(dim, dim + 2)
