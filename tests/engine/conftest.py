"""Networks that several tests of the engine explain."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18


def alive(model: nn.Module, size: int = 32, seed: int = 0) -> nn.Module:
    """The model with batch-norm statistics from random images and no constant parameters: its logits differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if float(parameter.abs().max()) == 0 or "layer_scale" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                if module.affine:
                    module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
        model.train()
        model(torch.rand(16, 3, size, size, generator=generator))
        model.eval()
    return model


@pytest.fixture(scope="session")
def resnet() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return alive(resnet18(num_classes=10)).double(), torch.rand(
        2, 3, 32, 32, generator=torch.Generator().manual_seed(1)
    ).double()
