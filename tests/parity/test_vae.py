"""VAE: its equations written a second time; its terms against torch.distributions and a known log p."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from fuxian.data.images import Images
from fuxian.evaluation import judging
from fuxian.methods.generative.vae import VAE, Bound, kl
from fuxian.optim import adam

from .compare import Differences, in_both, parity


class Reference(nn.Module):
    """Kingma & Welling, app. C: affine maps as sums, ReLU as in pytorch/examples, the noise given."""

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        for name, (rows, columns) in dict(
            h=(hidden, pixels), mu=(latent, hidden), s=(latent, hidden), g=(hidden, latent), y=(pixels, hidden)
        ).items():
            self.register_parameter(f"w_{name}", nn.Parameter(torch.zeros(rows, columns)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.zeros(rows)))

    def affine(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.get_parameter(f"w_{name}"), self.get_parameter(f"b_{name}")
        return torch.einsum("oi,bi->bo", weight, x) + bias

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.affine("h", x).clamp_min(0)
        mean, logvar = self.affine("mu", h), self.affine("s", h)
        z = mean + logvar.exp().sqrt() * noise
        y = 1 / (1 + torch.exp(-self.affine("y", self.affine("g", z).clamp_min(0))))
        return y, z, mean, logvar

    def bound(self, x: Tensor, noise: Tensor) -> Tensor:
        """Eq. 10 with log-densities themselves: E[log q(z|x) - log p(z)] in closed form, summed over latent numbers."""
        y, _, mean, logvar = self.forward(x, noise)
        log_likelihood = (x * y.log() + (1 - x) * (1 - y).log()).sum(1)  # eq. 11
        return log_likelihood + 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)  # app. B


class Given(Bound):
    """The bound with a noise that is known."""

    def __init__(self, shape: tuple[int, int, int], noise: Tensor) -> None:
        super().__init__(shape)
        self.given = noise

    def noise(self, batch: Images, like: Tensor) -> Tensor:
        return self.given


def compared() -> Differences:
    torch.manual_seed(0)
    ours, reference = VAE(36, 24, 5), Reference(36, 24, 5)
    batch = Images(torch.rand(8, 1, 6, 6), torch.zeros(8, dtype=torch.int64))
    noise = torch.randn(8, 5)
    x = batch.image.flatten(1)
    names = dict(encoder="h", mean="mu", logvar="s", decoder="g", logit="y")
    return parity(
        ours,
        reference,
        {f"{ours_}.{kind}": f"{kind[0]}_{theirs}" for ours_, theirs in names.items() for kind in ("weight", "bias")},
        outputs=lambda: (
            torch.cat([ours(x), *ours.encode(x)], 1),
            torch.cat([reference(x, 0 * noise)[0], *reference(x, noise)[2:]], 1),
        ),
        losses=lambda *_: (
            next(Given((1, 6, 6), noise).losses(ours, batch))[1],
            -reference.bound(x, noise).sum() / 8,
        ),
        spec=adam(1e-3),
        optimizer=torch.optim.Adam(reference.parameters(), 1e-3, fused=False, foreach=False),
    )


def test_outputs_gradients_and_step(prove) -> None:
    prove("vae", "parity", reference="the equations written a second time", **in_both(compared))


def test_652824_weights() -> None:
    assert sum(p.numel() for p in VAE(784, 400, 20).parameters()) == 314_000 + 2 * 8_020 + 8_400 + 314_384 == 652_824


def test_kl_is_that_of_torch_and_of_samples() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    q, p = Normal(mean, (logvar / 2).exp()), Normal(torch.zeros_like(mean), 1.0)
    torch.testing.assert_close(kl(mean, logvar), kl_divergence(q, p).sum(1))
    z = q.sample((200_000,))
    ratio = (q.log_prob(z) - p.log_prob(z)).sum(2)
    assert ((ratio.mean(0) - kl(mean, logvar)).abs() < 5 * ratio.std(0) / math.sqrt(200_000)).all()


def test_terms_are_those_of_the_densities() -> None:
    torch.manual_seed(0)
    model = VAE(9, 7, 2).double()
    image = torch.rand(4, 1, 3, 3, dtype=torch.float64).round()  # black or white: then p(x|z) is a Bernoulli
    batch = Images(image, torch.zeros(4, dtype=torch.int64))
    noise = torch.randn(4, 2, dtype=torch.float64)
    reconstruction, divergence = Given((1, 3, 3), noise).terms(model, batch)
    mean, logvar = model.encode(image.flatten(1))
    z = mean + noise * (logvar / 2).exp()
    torch.testing.assert_close(reconstruction, -Bernoulli(model.decode(z)).log_prob(image.flatten(1)).sum(1))
    torch.testing.assert_close(divergence, kl(mean, logvar))
    measured = dict(Given((1, 3, 3), noise).evaluate(model, batch))
    torch.testing.assert_close(measured["reconstruction"], reconstruction)
    torch.testing.assert_close(measured["kl"], divergence)
    torch.testing.assert_close(measured["loss"], reconstruction + divergence)


def test_the_bound_is_below_log_p_by_the_divergence_from_the_posterior() -> None:
    """One latent number: log p(x) = log ∫ p(x|z) N(z) dz, and the posterior, are found on a grid."""
    torch.manual_seed(0)
    model, x, draws = VAE(6, 8, 1).double(), torch.randint(2, (5, 6)).double(), 4000
    with torch.no_grad():
        model.logit.weight.mul_(6)  # so that the posterior is not the prior
    batch = Images(x.repeat_interleave(draws, 0).view(-1, 1, 2, 3), torch.zeros(5 * draws, dtype=torch.int64))
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    with judging(model):
        elbo = -dict(Bound((1, 2, 3)).evaluate(model, batch))["loss"].view(5, draws)
        joint = Bernoulli(logits=model.logits(z)[:, None]).log_prob(x).sum(2) + Normal(0.0, 1.0).log_prob(z)
        log_p = joint.logsumexp(0) + math.log(24 / 4000)
        mean, logvar = model.encode(x)
        log_q = Normal(mean[:, 0], (logvar[:, 0] / 2).exp()).log_prob(z)
        gap = (log_q.exp() * (log_q - joint + log_p)).sum(0) * (24 / 4000)  # KL(q(z|x) ‖ p(z|x))
    assert (gap > 0.01).all()
    assert (elbo.mean(1) < log_p).all()
    assert ((elbo.mean(1) + gap - log_p).abs() < 5 * elbo.std(1) / math.sqrt(draws)).all()


def test_the_bound_touches_log_p_where_q_is_the_posterior() -> None:
    """A Gaussian p(x|z) has a Gaussian posterior: with it, the closed KL and the likelihood add up to log p(x) exactly."""
    x, noise = torch.tensor([[0.7, -1.2]], dtype=torch.float64), 0.25
    mean, variance = x / (1 + noise), torch.full((1, 2), noise / (1 + noise), dtype=torch.float64)
    expected = Normal(mean, noise**0.5).log_prob(x).sum() - (variance / (2 * noise)).sum()  # E_q[log p(x|z)]
    log_p = MultivariateNormal(torch.zeros(2, dtype=torch.float64), (1 + noise) * torch.eye(2, dtype=torch.float64))
    assert (expected - kl(mean, variance.log())).item() == pytest.approx(log_p.log_prob(x).item(), abs=1e-12)


def test_each_image_has_a_noise_of_its_own() -> None:
    torch.manual_seed(0)
    objective, like = Bound((1, 6, 6)), torch.empty(20_000, 3, dtype=torch.float64)
    noise = objective.noise(Images(like, like), like)
    torch.testing.assert_close(noise.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.04, rtol=0)
    torch.testing.assert_close(noise.T.cov(), torch.eye(3, dtype=torch.float64), atol=0.05, rtol=0)
