"""GradientSHAP: expected gradients of noisy copies of the image (Lundberg and Lee, 2017; Erion et al., 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution.expected_gradients import ExpectedGradients
from pellucid.core.options import NotNegative
from pellucid.core.seeding import generator


@METHODS.register("gradient_shap")
@dataclass(frozen=True)
class GradientShap(ExpectedGradients):
    """R = E[(x + ε − x′) ⊙ ∂f(x′ + a(x + ε − x′))] over references x′, positions a and Gaussian noise ε.

    As in SHAP's GradientExplainer and captum's GradientShap: positions are independent and uniform in [0, 1], and the
    noise moves the end of the path. The sum of the map converges to E f(x + ε) − E f(x′); no exact sum is promised.
    `expected_gradients` spreads its positions evenly, which has a smaller error for the same number of samples.

    >>> from torch import nn
    >>> from pellucid.attribution import create_analyzer
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> analyzer = create_analyzer("gradient_shap", model, noise=0, references=torch.zeros(1, 2))
    >>> analyzer.analyze(torch.ones(1, 2))
    tensor([[1., 2.]])
    """

    answers: ClassVar[str] = "how much each pixel adds to the logit near the image, relative to typical images"
    reaches_layers: ClassVar[bool] = False  # the noise has the scale of the input, not that of a layer
    key: ClassVar[str] = "gradient_shap"

    noise: NotNegative = 0.1
    """Standard deviation of the noise, in units of the input; captum's default is 0."""

    def draws(self, references: int, images: Tensor) -> Iterator[tuple[int, float, Tensor]]:
        source = generator(self.seed, self.key)
        for _ in range(self.samples):
            # Drawn in float64 on the CPU: the same samples for every device and dtype, and for every image.
            index = int(torch.randint(references, (1,), generator=source, device="cpu"))
            place = float(torch.rand(1, generator=source, dtype=torch.float64, device="cpu"))
            noise = torch.randn(images.shape[1:], generator=source, dtype=torch.float64, device="cpu")
            yield index, place, images + self.noise * noise.to(images)
