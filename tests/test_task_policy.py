"""A policy as a function of its parameters.

Log-probabilities equal scipy's and torch's, inside the bounds and at them; they sum to 1; the
policy gradient has the mean of the unclipped Gaussian's, with less variance; divergences equal
torch's and bound those of the clipped policy; fast weights act each for their own task; actions
survive the way to the environment and back; nothing is drawn from global generators; bad input is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.func import grad, vmap

from meta_rl.policy_gradient.policy import MIN_LOG_STD, TaskPolicy

FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
BOUNDED = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), dtype=np.float64)
SEEN = spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_policy(action_space: Any, observation_space: Any = SEEN, **kwargs: Any) -> TaskPolicy:
    settings = {"hidden_sizes": (5,), "generator": torch.Generator().manual_seed(0), **kwargs}
    return TaskPolicy(observation_space, action_space, **settings)


def gaussian(means: Any, stds: Any) -> tuple[Tensor, Tensor]:
    """Outputs in float64."""
    means = torch.as_tensor(means, dtype=torch.float64)
    return means, torch.as_tensor(stds, dtype=torch.float64).log().expand_as(means)


class TestLogProbabilities:
    def test_free_actions_are_gaussian(self) -> None:
        policy = make_policy(FREE)
        outputs = gaussian([[0.5, -1.0], [0.0, 3.0]], [0.3, 2.0])
        actions = torch.tensor([[0.1, 5.0], [-7.0, 2.5]], dtype=torch.float64)
        expected = Independent(Normal(outputs[0], outputs[1].exp()), 1).log_prob(actions)
        torch.testing.assert_close(policy.log_prob(outputs, actions), expected)
        torch.testing.assert_close(policy.distribution(outputs).log_prob(actions), expected)

    @pytest.mark.parametrize("mean", [-3.0, -1.0, 0.2, 1.0, 8.0])
    @pytest.mark.parametrize("std", [0.05, 0.7, 4.0])
    def test_bounded_actions(self, mean: float, std: float) -> None:
        """A density inside; at -1 and 1 the probability of what lies beyond: scipy's."""
        policy = make_policy(spaces.Box(-1.0, 1.0, (1,), np.float32))
        outputs = gaussian([[mean]] * 4, [std])
        actions = torch.tensor([[-1.0], [-0.5], [0.999], [1.0]], dtype=torch.float64)
        expected = [
            stats.norm.logcdf(-1.0, mean, std),
            *stats.norm.logpdf([-0.5, 0.999], mean, std),
            stats.norm.logsf(1.0, mean, std),
        ]
        np.testing.assert_allclose(policy.log_prob(outputs, actions), expected, rtol=1e-10)

    def test_dimensions_add_up(self) -> None:
        """One inside, one at its bound."""
        policy = make_policy(BOUNDED)
        outputs = gaussian([[0.3, 0.4]], [0.5, 2.0])
        found = policy.log_prob(outputs, torch.tensor([[0.1, 1.0]], dtype=torch.float64))
        expected = stats.norm.logpdf(0.1, 0.3, 0.5) + stats.norm.logsf(1.0, 0.4, 2.0)
        assert found.item() == pytest.approx(expected)

    @pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.9, 0.7), (-2.0, 0.5)])
    def test_probabilities_sum_to_one(self, mean: float, std: float) -> None:
        """Both masses and the integral between."""
        policy = make_policy(spaces.Box(-1.0, 1.0, (1,), np.float32))

        def probability(action: float) -> float:
            actions = torch.tensor([[action]], dtype=torch.float64)
            return policy.log_prob(gaussian([[mean]], [std]), actions).exp().item()

        inside, _ = integrate.quad(probability, -1 + 1e-12, 1 - 1e-12)
        assert probability(-1.0) + inside + probability(1.0) == pytest.approx(1.0, abs=1e-6)
        assert probability(-1.0) > 0.003  # there is something to sum

    @pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.9, 0.6), (-1.5, 1.0)])
    def test_gradient_has_the_mean_of_the_gaussians(self, mean: float, std: float) -> None:
        """Of clipped-action policy gradients, for returns of the clipped action; less variance.

        ``E[f(clip(x)) ∇ log π(clip(x))] = E[f(clip(x)) ∇ log N(x)]`` by quadrature over x, for both
        parameters; Fujita and Maeda, 2018, equation 6.
        """
        policy = make_policy(spaces.Box(-1.0, 1.0, (1,), np.float32))
        nodes, weights = np.polynomial.legendre.leggauss(100)
        edges = np.array([mean - 9 * std, -1.0, 1.0, mean + 9 * std])  # smooth between them
        half = np.diff(edges)[:, None] / 2
        x = torch.as_tensor((edges[:-1, None] + half * (1 + nodes)).ravel())
        weights = (half * weights).ravel()
        density = torch.as_tensor(stats.norm.pdf(x.numpy(), mean, std) * weights)
        actions = x.clamp(-1.0, 1.0)
        value = actions.square() + 2.0 * actions
        parameters = torch.tensor([mean, math.log(std)], dtype=torch.float64)

        def clipped(theta: Tensor, action: Tensor) -> Tensor:
            return policy.log_prob((theta[:1], theta[1:]), action[None])

        def free(theta: Tensor, action: Tensor) -> Tensor:
            return Normal(theta[0], theta[1].exp(), validate_args=False).log_prob(action)

        ours = vmap(grad(clipped), (None, 0))(parameters, actions)
        theirs = vmap(grad(free), (None, 0))(parameters, x)
        moments = []
        for scores in (ours, theirs):
            terms = value[:, None] * scores
            average = (density[:, None] * terms).sum(dim=0)
            moments.append((average, (density[:, None] * terms.square()).sum(dim=0) - average**2))
        torch.testing.assert_close(moments[0][0], moments[1][0], rtol=0, atol=1e-8)
        assert moments[0][0].abs().max() > 0.1
        assert (moments[0][1] < moments[1][1]).all()

    def test_discrete_actions(self) -> None:
        policy = make_policy(spaces.Discrete(3))
        logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.0, 0.5]])
        actions = torch.tensor([1, 2])
        found = policy.log_prob((logits,), actions)
        torch.testing.assert_close(found, Categorical(logits=logits).log_prob(actions))
        assert found[0].item() == pytest.approx(1 - math.log(1 + math.e + math.exp(-2)))


class TestDivergence:
    def test_of_gaussians_is_torchs(self) -> None:
        old, new = gaussian([[0.5, -1.0]], [0.3, 2.0]), gaussian([[0.1, 4.0]], [1.0, 0.5])
        expected = kl_divergence(*(Independent(Normal(m, s.exp()), 1) for m, s in (old, new)))
        for policy in (make_policy(FREE), make_policy(BOUNDED)):
            torch.testing.assert_close(policy.kl(old, new), expected)
            torch.testing.assert_close(policy.kl(old, old), torch.zeros_like(expected))

    def test_of_categoricals_is_torchs(self) -> None:
        policy = make_policy(spaces.Discrete(3))
        old, new = torch.randn((2, 4, 3), generator=torch.Generator().manual_seed(0))
        expected = kl_divergence(Categorical(logits=old), Categorical(logits=new))
        torch.testing.assert_close(policy.kl((old,), (new,)), expected)
        assert policy.kl((old,), (old,)).abs().max() < 1e-6

    def test_clipping_lowers_it(self) -> None:
        """The divergence of the clipped actions, by quadrature, is smaller than what is bounded."""
        policy = make_policy(spaces.Box(-1.0, 1.0, (1,), np.float32))
        old, new = gaussian([[0.8]], [0.5]), gaussian([[0.4]], [0.7])

        def term(action: float) -> float:
            actions = torch.tensor([[action]], dtype=torch.float64)
            log_old, log_new = (policy.log_prob(o, actions).item() for o in (old, new))
            return math.exp(log_old) * (log_old - log_new)

        clipped = term(-1.0) + term(1.0) + integrate.quad(term, -1 + 1e-12, 1 - 1e-12)[0]
        assert 0.0 < clipped < policy.kl(old, new).item()


class TestNetwork:
    def test_outputs_worked_by_hand(self) -> None:
        """One hidden unit: relu(2 * 1 - 3 + 2) = 1, times 4, plus 1/2; log std as it is."""
        policy = make_policy(
            spaces.Box(-1.0, 1.0, (1,), np.float32),
            spaces.Box(-9.0, 9.0, (2,), np.float32),
            hidden_sizes=(1,),
            log_std_init=-0.5,
        )
        assert policy.parameters_by_name()["log_std"].tolist() == [-0.5]
        params = {
            "network.0.weight": torch.tensor([[2.0, -1.0]]),
            "network.0.bias": torch.tensor([2.0]),
            "network.2.weight": torch.tensor([[4.0]]),
            "network.2.bias": torch.tensor([0.5]),
            "log_std": torch.tensor([-0.25]),
        }
        assert params.keys() == policy.parameters_by_name().keys()
        means, log_std = policy.outputs(params, torch.tensor([[1.0, 3.0], [0.0, 3.0]]))
        assert means.tolist() == [[4.5], [0.5]]
        assert log_std.tolist() == [[-0.25], [-0.25]]
        low = policy.outputs({**params, "log_std": torch.tensor([-99.0])}, torch.ones(1, 2))[1]
        assert low.item() == pytest.approx(MIN_LOG_STD)

    def test_activations(self) -> None:
        for name, function in (("relu", torch.relu), ("tanh", torch.tanh)):
            policy = make_policy(spaces.Discrete(2), hidden_sizes=(4, 3), activation=name)
            params, obs = policy.parameters_by_name(), torch.randn(6, 3)
            hidden = obs
            for layer in ("0", "2"):
                weight, bias = params[f"network.{layer}.weight"], params[f"network.{layer}.bias"]
                hidden = function(hidden @ weight.T + bias)
            logits = hidden @ params["network.4.weight"].T + params["network.4.bias"]
            torch.testing.assert_close(policy.outputs(params, obs)[0], logits)

    def test_no_hidden_layer(self) -> None:
        policy = make_policy(spaces.Discrete(2), hidden_sizes=())
        names = ["network.0.weight", "network.0.bias"]
        assert list(policy.parameters_by_name()) == names

    def test_the_first_outputs_are_scaled(self) -> None:
        obs = torch.randn(6, 3)
        whole, tenth = (make_policy(FREE, output_scale=scale) for scale in (1.0, 0.1))
        (means, log_std), (small, same) = (
            p.outputs(p.parameters_by_name(), obs) for p in (whole, tenth)
        )
        torch.testing.assert_close(small, 0.1 * means)
        torch.testing.assert_close(same, log_std)

    def test_first_weights(self) -> None:
        """Drawn from the generator that is given (Xavier's uniform), biases 0."""
        one, same, other = (
            make_policy(FREE, generator=torch.Generator().manual_seed(s)).parameters_by_name()
            for s in (1, 1, 2)
        )
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["network.0.weight"], other["network.0.weight"])
        assert not one["network.0.bias"].any()
        assert one["network.0.weight"].abs().max() <= math.sqrt(6 / (3 + 5))

    def test_fast_weights_act_for_their_own_task(self) -> None:
        policy = make_policy(BOUNDED)
        own = policy.parameters_by_name()
        generator = torch.Generator().manual_seed(3)
        fast = {
            name: value + torch.randn((4, *value.shape), generator=generator)
            for name, value in own.items()
        }
        obs = torch.randn((4, 6, 3), generator=generator)
        outputs = policy.outputs(fast, obs)
        for task in range(4):
            alone = policy.outputs({name: value[task] for name, value in fast.items()}, obs[task])
            for ours, theirs in zip(outputs, alone, strict=True):
                torch.testing.assert_close(ours[task], theirs, rtol=1e-5, atol=1e-5)
        assert len(outputs[1][:, 0, 0].unique()) == 4  # standard deviations are fast weights too
        for name, value in policy.parameters_by_name().items():
            assert torch.equal(value, own[name])

    def test_parameters_are_outside_the_graph(self) -> None:
        assert not any(p.requires_grad for p in make_policy(FREE).parameters_by_name().values())


class TestActions:
    def test_units_are_half_the_width_of_the_bounds(self) -> None:
        """[-2, 2] and [0, 1]: means 0.5 and -0.5 are 1 and 0.25; means 3 and -3 are clipped."""
        policy = make_policy(BOUNDED)
        actions = policy.draw(gaussian([[0.5, -0.5], [3.0, -3.0]], [1.0, 1.0]), deterministic=True)
        assert actions.tolist() == [[1.0, 0.25], [2.0, 0.0]]
        assert actions.dtype == np.float64
        assert policy.as_units(actions).tolist() == [[0.5, -0.5], [1.0, -1.0]]
        assert policy.as_units(actions).dtype == torch.float32

    def test_drawn_actions_come_back(self) -> None:
        """Inside the space; clipped ones are exactly at the bounds, as often as they should be."""
        space = spaces.Box(np.float32([-0.3, 2.0]), np.float32([0.1, 2.7]))
        policy = make_policy(space)
        means, log_std = gaussian([[0.5, -0.2]] * 20_000, [1.0, 0.5])
        actions = policy.draw((means.float(), log_std.float()))
        assert actions.dtype == np.float32
        assert all(space.contains(action) for action in actions[:100])
        units = policy.as_units(actions)
        assert units.abs().max() == 1.0
        expected = stats.norm.sf(1.0, [0.5, -0.2], [1.0, 0.5])
        found = (units == 1.0).double().mean(dim=0).numpy()
        np.testing.assert_allclose(found, expected, atol=4 * math.sqrt(0.25 / 20_000))
        inside = units[(units.abs() < 1).all(dim=1)]
        assert len(inside) > 5000
        means_inside = stats.truncnorm.mean(
            [-1.5, -1.6], [0.5, 2.4], loc=[0.5, -0.2], scale=[1.0, 0.5]
        )
        np.testing.assert_allclose(inside.mean(dim=0).numpy(), means_inside, atol=0.03)

    def test_free_actions_are_not_clipped(self) -> None:
        policy = make_policy(FREE)
        actions = policy.draw(gaussian([[40.0, -50.0]], [1e-6, 1e-6]))
        np.testing.assert_allclose(actions, [[40.0, -50.0]], rtol=1e-5)
        np.testing.assert_allclose(policy.as_units(actions), [[40.0, -50.0]], rtol=1e-5)

    def test_shapes_of_actions(self) -> None:
        """Two by two, in a block of tasks: flat for the network only."""
        policy = make_policy(spaces.Box(-1.0, 1.0, (2, 2), np.float32))
        outputs = gaussian(torch.linspace(-0.9, 0.9, 24).reshape(3, 2, 4), [1e-6] * 4)
        actions = policy.draw(outputs, deterministic=True)
        assert actions.shape == (3, 2, 2, 2)
        units = policy.as_units(actions)
        assert units.shape == (3, 2, 4)
        torch.testing.assert_close(units, outputs[0].float())

    def test_discrete_actions_start_where_the_space_does(self) -> None:
        policy = make_policy(spaces.Discrete(3, start=5))
        logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
        actions = policy.draw((logits,), deterministic=True)
        assert actions.tolist() == [5, 7]
        assert actions.dtype == np.int64
        assert policy.as_units(actions).tolist() == [0, 2]

    def test_discrete_actions_are_drawn_with_their_probabilities(self) -> None:
        policy = make_policy(spaces.Discrete(3))
        chances = np.array([0.2, 0.5, 0.3])
        logits = torch.as_tensor(chances).log().expand(2, 10_000, 3)  # two tasks
        actions = policy.draw((logits,))
        assert actions.shape == (2, 10_000)
        counts = np.bincount(actions.ravel(), minlength=3)
        assert stats.chisquare(counts, 20_000 * chances).pvalue > 1e-3

    @pytest.mark.parametrize("space", [FREE, BOUNDED, spaces.Discrete(4)], ids=str)
    def test_draws_come_from_the_generator_that_was_given(self, space: Any) -> None:
        draws = []
        for seed in (1, 1, 2):
            policy = make_policy(space, generator=torch.Generator().manual_seed(seed))
            outputs = policy.outputs(policy.parameters_by_name(), torch.ones(50, 3))
            draws.append(policy.draw(outputs))
        np.testing.assert_array_equal(draws[0], draws[1])
        assert (draws[0] != draws[2]).any()
        before = torch.get_rng_state()
        policy.draw(outputs)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("space", "batch", "flat"),
    [
        (SEEN, [[0.1, 0.2, 0.3]], [[0.1, 0.2, 0.3]]),
        (spaces.Discrete(3, start=1), [2, 3], [[0, 1, 0], [0, 0, 1]]),
        (spaces.MultiBinary(2), [[1, 0]], [[1, 0]]),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1, 2), np.float64)}),
            {"a": [1], "b": [[[0.5, -0.5]]]},
            [[0, 1, 0.5, -0.5]],
        ),
    ],
    ids=["box", "discrete", "binary", "dict"],
)
def test_observations_are_flattened(space: Any, batch: Any, flat: Any) -> None:
    policy = make_policy(spaces.Discrete(2), space)
    seen = policy.flat(
        {k: np.array(v) for k, v in batch.items()} if isinstance(batch, dict) else np.array(batch)
    )
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, torch.tensor(flat, dtype=torch.float32))
    assert policy.outputs(policy.parameters_by_name(), seen)[0].shape == (len(flat), 2)


@pytest.mark.parametrize(
    ("action_space", "kwargs", "message"),
    [
        (FREE, {"activation": "gelu"}, "activation 'gelu': relu, tanh exist"),
        (
            spaces.Box(np.array([0.0, -1.0]), np.array([np.inf, 1.0]), dtype=np.float64),
            {},
            "bounded on both sides or on none",
        ),
        (FREE, {"observation_space": spaces.Text(3)}, "cannot append Text"),
        (FREE, {"output_scale": 0.0}, "output_scale has to be above 0"),
    ],
    ids=["activation", "bounds", "observations", "scale"],
)
def test_bad_input_is_refused(action_space: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(action_space, **kwargs)


def test_the_policy_alone_does_not_predict() -> None:
    with pytest.raises(NotImplementedError, match="predict with the agent"):
        make_policy(FREE).predict(np.zeros((1, 3), dtype=np.float32))
