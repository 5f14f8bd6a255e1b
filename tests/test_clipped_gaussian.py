"""The density of a clipped Gaussian: values and both derivatives are scipy's, at any depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import grad, vmap

from meta_rl.policy_gradient.policy import DEEP, log_density

DEPTHS = [-200.0, -30.0, DEEP - 1e-3, DEEP + 1e-3, -5.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 4.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_what_lies_beyond(dtype: torch.dtype, side: float) -> None:
    """``log Φ(t)``, its slope φ/Φ = r and its curvature -r (t + r), for t = -side s."""
    t = torch.tensor(DEPTHS, dtype=dtype)
    scaled, sides = -side * t, torch.full_like(t, side)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    wide = t.double().numpy()
    found = vmap(log_density)(scaled, sides)
    np.testing.assert_allclose(found, stats.norm.logcdf(wide), rtol=tolerance, atol=1e-40)
    ratio = np.exp(stats.norm.logpdf(wide) - stats.norm.logcdf(wide))
    slopes = vmap(grad(log_density))(scaled, sides)
    np.testing.assert_allclose(slopes, -side * ratio, rtol=tolerance, atol=1e-16)
    curvatures = vmap(grad(grad(log_density)))(scaled, sides)
    expected = -ratio * (wide + ratio)
    rtol = 0.02 if dtype is torch.float32 else 1e-8  # deep in the tail r and t cancel
    np.testing.assert_allclose(curvatures, expected, rtol=rtol, atol=1e-6)


def test_inside() -> None:
    s = torch.tensor([-3.0, 0.5])
    inside = torch.zeros(2)
    assert vmap(log_density)(s, inside).tolist() == [-4.5, -0.125]
    assert vmap(grad(log_density))(s, inside).tolist() == [3.0, -0.5]
    assert vmap(grad(grad(log_density)))(s, inside).tolist() == [-1.0, -1.0]


def test_every_derivative_is_of_the_one_before() -> None:
    """By finite differences, three times, and the same by plain autograd as within ``vmap``."""
    generator = torch.Generator().manual_seed(0)
    s = torch.randn((4, 6), dtype=torch.float64, generator=generator).mul_(2.0).requires_grad_()
    side = torch.arange(24).reshape(4, 6).remainder(3).double() - 1.0
    assert torch.autograd.gradcheck(log_density, (s, side))
    assert torch.autograd.gradgradcheck(log_density, (s, side))

    def second(s: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(log_density(s, side).sum(), s, create_graph=True)
        return torch.autograd.grad(first.sum(), s, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (s,))
    shared = vmap(lambda row: log_density(row, side[0]))(s)
    torch.testing.assert_close(shared[2], log_density(s[2], side[0]))
