"""A variational autoencoder: the density whose decoder also generates images from codes."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.isolation import preserved_random_state, without_autocast
from pellucid.core.seeding import derive_seed, generator, seed_everything
from pellucid.core.types import Images, Pixels
from pellucid.densities import DENSITIES, Density, Minimise
from pellucid.densities._components import principal_components
from pellucid.densities._density import check_images, check_shape, dequantised, floats_of

__all__ = ["VAE", "Codes"]

Codes = Float[Tensor, "batch feature"]
"""One latent vector per image; their prior is a standard normal distribution."""

HIDDEN = 256
FEATURES = 20
BATCH = 128
LEARNING_RATE = 5e-3
STEPS = 450
"""Maximum; fewer for few images."""
STEPS_OF_LARGE = 600
"""Maximum for images of more values than `LARGE`."""
LARGE = 1024
ROUNDS = 40
"""Maximum number of epochs."""
SAMPLES = 4
"""Codes drawn to estimate the bound of each image."""
SMALLEST_VARIANCE = 1e-4
IMAGES_FOR_COMPONENTS = 8000
"""Maximum number of images for the principal components from which the training starts."""
ENCODER_SCALE = 3.0
"""Scale of the principal components in the first layer: large enough for its activations to be nonlinear."""
DECODER_SCALE = 4.0
"""Scale in the last layer: the logistic function has a slope of 1/4 in its middle."""
FIRST_LOG_SPREAD = -1.0
"""Logarithm of the codes' standard deviation at the start: narrow, so that they carry information."""


@DENSITIES.register("vae")
class VAE(nn.Module, Density):
    r"""A VAE with encoder q(z|x), decoder g(z) and one pixel variance σ², whose log-density is the variational bound

    $$
    \log p(x) \ge E_{q(z|x)} \log N(x; g(z), \sigma^2) - KL(q(z|x) \,\Vert\, N(0, 1))
    $$

    (Kingma and Welling, *Auto-encoding variational Bayes*, 2014), with the optimal σ² (Rybkin, Daniilidis and Levine,
    *Simple and effective VAE training with calibrated decoders*, 2021). Encoder and decoder each have two hidden
    layers.
    """

    pixel_variance: Tensor
    sizes: Tensor
    noise: Tensor

    def __init__(self, image_shape: tuple[int, int, int], features: int = FEATURES, hidden: int = HIDDEN) -> None:
        super().__init__()
        size = math.prod(image_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), *_hidden(size, hidden), *_hidden(hidden, hidden), _linear(hidden, 2 * features)
        )
        self.decoder = nn.Sequential(
            *_hidden(features, hidden), *_hidden(hidden, hidden), _linear(hidden, size), nn.Sigmoid()
        )
        # a placeholder: training ignores it, and `_finalized` sets the real value
        self.register_buffer("pixel_variance", torch.tensor(0.05, dtype=torch.float32, device="cpu"))
        # the constructor's arguments, so that the state alone restores the VAE
        self.register_buffer("sizes", torch.tensor([*image_shape, features, hidden], device="cpu"))
        # fixed noise makes `log_density` deterministic; as a buffer it is saved with the weights
        self.register_buffer("noise", torch.randn(SAMPLES, features, dtype=torch.float32, device="cpu"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it was fitted to."""
        channels, height, width = self.sizes[:3].tolist()
        return channels, height, width

    @property
    def features(self) -> int:
        """Dimension of the latent space."""
        return int(self.sizes[3])

    @classmethod
    def recipe(cls) -> str:
        """Return the version and the settings of `fit` as text."""
        sizes, start = (HIDDEN, FEATURES), (IMAGES_FOR_COMPONENTS, ENCODER_SCALE, DECODER_SCALE, FIRST_LOG_SPREAD)
        steps = (BATCH, STEPS, STEPS_OF_LARGE, LARGE, ROUNDS, LEARNING_RATE)
        return f"2 {sizes} {start} {steps} {SAMPLES} {SMALLEST_VARIANCE}"

    @classmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "VAE":
        """Train a VAE on `images` with `minimise`: about 4 seconds for MNIST on one core.

        Raises `DataError` for fewer than two images, and for images with more than 12,288 values.
        """
        check_images(images)
        # initial weights from the seed, without changing the global random state
        with preserved_random_state():
            seed_everything(derive_seed(seed, "vae"))
            channels, height, width = images.shape[1:]
            vae = cls((channels, height, width))
        vae._start_at_components(images, generator(seed, "vae", "components"))
        vae.to(device).train()

        def loss(step: int) -> Tensor:
            return vae._loss(images, generator(seed, "vae", step))

        minimise(vae, loss, steps=_steps(images), learning_rate=LEARNING_RATE)
        return vae._finalized(images, generator(seed, "vae", "variance"))

    def _start_at_components(self, images: Pixels, draws: torch.Generator) -> None:
        """Start the first layer at the principal components of the images, and the last at their mean and components.

        It saves three quarters of the training. Where there are fewer components than units, the rest stays random.
        """
        chosen = torch.randperm(len(images), generator=draws, device="cpu")[:IMAGES_FOR_COMPONENTS]
        points = dequantised(floats_of(images[chosen]), draws).flatten(1)
        first, codes, last = self.encoder[1], self.encoder[-1], self.decoder[-2]
        assert isinstance(first, nn.Linear)
        assert isinstance(codes, nn.Linear)
        assert isinstance(last, nn.Linear)
        with torch.no_grad(), without_autocast():
            components = principal_components(points, first.out_features)
            count = len(components.directions)
            first.weight[:count] = ENCODER_SCALE * components.directions
            first.bias[:count] = -ENCODER_SCALE * components.directions @ components.mean
            last.weight[:, :count] = DECODER_SCALE * components.directions.T * components.variances.sqrt()
            # bounded, since the logit of a pixel that is always black is infinite
            last.bias.copy_(components.mean.clamp(0.005, 0.995).logit())
            # the encoder's outputs are means, then log spreads
            codes.bias[self.features :] = FIRST_LOG_SPREAD

    def _loss(self, images: Pixels, draws: torch.Generator) -> Tensor:
        """Return the mean negative ELBO of a random batch, in nats, at the variance that is optimal for the batch."""
        # with replacement, so that small data sets give full batches too
        chosen = torch.randint(len(images), (BATCH,), generator=draws, device="cpu")
        x = dequantised(floats_of(images[chosen]), draws).to(self.pixel_variance.device)
        mean, log_spread = self.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=draws, dtype=torch.float32, device="cpu").to(mean)
        error = (x - self.decode(mean + log_spread.exp() * noise)).square().sum((1, 2, 3))
        size = math.prod(self.image_shape)
        # the optimal variance in closed form; detached, because the loss is stationary in it
        variance = (error.detach().mean() / size).clamp_min(SMALLEST_VARIANCE)
        # omits the constant D/2 · log 2π, which has no gradient
        return (error / (2 * variance) + _divergence(mean, log_spread)).mean() + size / 2 * variance.log()

    def _finalized(self, images: Pixels, draws: torch.Generator) -> "VAE":
        """Freeze the VAE, and set its pixel variance to the mean squared error over (up to 2,000) images."""
        self.eval().requires_grad_(False)
        chosen = torch.randint(len(images), (min(len(images), 2000),), generator=draws, device="cpu")
        x = dequantised(floats_of(images[chosen]), draws).to(self.pixel_variance.device)
        mean, log_spread = self.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=draws, dtype=torch.float32, device="cpu").to(mean)
        error = (x - self.decode(mean + log_spread.exp() * noise)).square().mean()
        # without torch.no_grad: the weights are frozen, so there is no graph
        self.pixel_variance.copy_(error.clamp_min(SMALLEST_VARIANCE))
        return self

    def encode(self, images: Images) -> Codes:
        """Return the mean code of each image; raises `ShapeError` for images of another shape."""
        check_shape(self, images)
        with without_autocast():
            return self.encoder(images.to(self.pixel_variance.dtype)).chunk(2, 1)[0]

    def decode(self, codes: Codes) -> Images:
        """Return the image g(z) of each code, in [0, 1]."""
        with without_autocast():
            return self.decoder(codes.to(self.pixel_variance.dtype)).view(-1, *self.image_shape)

    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """Return the ELBO of each image, in nats, averaged over four codes with fixed noise.

        Raises `ShapeError` for images of another shape.
        """
        check_shape(self, images)
        x = images.to(self.pixel_variance.dtype)
        with without_autocast():
            mean, log_spread = self.encoder(x).chunk(2, 1)
            decoded = [self.decode(mean + log_spread.exp() * noise) for noise in self.noise]
        error = sum((x - image).square().sum((1, 2, 3)) for image in decoded)
        size = math.prod(self.image_shape)
        # log N(x; g(z), σ²), averaged over the samples
        fit = -error / (2 * SAMPLES * self.pixel_variance) - size / 2 * (2 * math.pi * self.pixel_variance).log()
        return fit - _divergence(mean, log_spread)

    def likely(self, count: int, seed: int) -> Images:
        """Return images decoded from `likely_codes`."""
        with torch.no_grad():
            return self.decode(self.likely_codes(count, seed))

    def likely_codes(self, count: int, seed: int) -> Codes:
        """Draw codes from the prior, some of them scaled towards the origin (by 0.75, 0.5 and 0.25 in turn)."""
        codes = torch.randn(count, self.features, generator=generator(seed, "codes"), dtype=torch.float32, device="cpu")
        scales = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float32, device="cpu")
        # codes near the origin decode to typical images, far ones to unusual ones
        scale = scales.repeat(count // 4 + 1)[:count, None]
        return (codes * scale).to(self.pixel_variance)

    def state(self) -> dict[str, Tensor]:
        """Return all weights and buffers, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "VAE":
        """Restore a VAE from its `state`."""
        channels, height, width, features, hidden = state["sizes"].tolist()
        # the constructor draws weights that `state` then replaces
        with preserved_random_state():
            vae = cls((channels, height, width), features, hidden)
        vae.load_state_dict(state)
        return vae.eval().requires_grad_(False)

    def on(self, device: torch.device) -> "VAE":
        """Return a copy on `device`, or the VAE itself if it is already there."""
        # a copy, because `nn.Module.to` moves a module in place
        return self if self.pixel_variance.device == device else self.from_state(self.state()).to(device)


def _hidden(inputs: int, outputs: int) -> list[nn.Module]:
    return [_linear(inputs, outputs), nn.SiLU()]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, dtype=torch.float32, device="cpu")  # independent of torch's defaults


def _divergence(mean: Tensor, log_spread: Tensor) -> Float[Tensor, " batch"]:
    """Return the Kullback-Leibler divergence of N(mean, exp(log_spread)²) from N(0, 1), in nats."""
    return (mean.square() + (2 * log_spread).exp() - 2 * log_spread - 1).sum(1) / 2


def _steps(images: Pixels) -> int:
    """Return the number of training steps: enough for many epochs, within a limit."""
    limit = STEPS_OF_LARGE if math.prod(images.shape[1:]) > LARGE else STEPS
    # few images are learned by heart within a few epochs
    rounds = min(ROUNDS, max(1, len(images) // 10))
    return min(limit, rounds * math.ceil(len(images) / BATCH))
