"""DPT: a decision-pretrained transformer, supervised by the actions of an expert."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from meta_rl.arguments import check_kind, check_number
from meta_rl.histories import Histories, History, optimal_actions

from .in_context import InContextAgent
from .sequence_policy import SequencePolicy


class DPT(InContextAgent):
    """Agent that runs decision pretraining (Lee et al., 2023).

    A task is drawn, a context D of transitions is played on it by anyone, and an expert names the
    best action in a state. A sequence model predicts this action from the context before it:

        ``minimise  - E_{task, D, s} Σ_t log p(a*(s_t) | D_t, s_t)``

    With an expert that is told the task, the model's prediction is the posterior of the best
    action, and acting by draws from it is posterior sampling (Lee et al., theorem 1).

    Who plays the contexts must not know the task: the model would read the task from the actions
    of a player who does, and could not when it acts itself. Here random actions play at first, and
    the agent itself plays ``own_contexts`` of the iterations.

    The arguments are those of :class:`.InContextAgent`, and those below.

    Args:
        expert: Name of the expert in :mod:`meta_rl.agents.experts`. ``"oracle"`` is told the task
            (the paper's). A learner, such as ``"gittins"`` or ``"search"``, names what is best for
            who has seen the context. ``"data"`` takes the labels of ``histories``.
        behaviour: Name of the player of the other contexts: ``"random"``, or a learner's name.
        own_contexts: Share of the iterations, 0 to 1, in which the agent itself plays.
        **settings: Further arguments of the base class.

    Example:
        >>> from meta_rl.agents.dpt import DPT
        >>> model = DPT(env="meta_rl/BernoulliBandit-v0", seed=0).learn(1_000_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/BernoulliBandit-v0", num_tasks=1000)
    """

    def __init__(
        self,
        policy: str | type[SequencePolicy] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        expert: str = "oracle",
        behaviour: str = "random",
        own_contexts: float = 0.75,
        **settings: Any,
    ) -> None:
        for name, value in (("expert", expert), ("behaviour", behaviour)):
            check_kind(name, value, str, "the name of an expert")
        self.expert, self.behaviour = expert, behaviour
        self.own_contexts = check_number("own_contexts", own_contexts, least=0.0, most=1.0)
        super().__init__(policy, env, learning_rate, **settings)
        if expert == "data" and self.histories is None and self.env is not None:
            raise ValueError("expert='data' takes the labels of a data set: give histories")

    def experts(self) -> list[str]:
        """Returns the names of the expert and of the player that are needed."""
        labels = [] if self.expert == "data" else [self.expert]
        return labels if self.histories is not None else [*labels, self.behaviour]

    def source(self) -> Any:
        """Returns the player of this iteration's contexts."""
        if self.rng.random() < self.own_contexts and self._num_iterations > 0:
            return self.player()
        return self.find(self.behaviour, self.fresh_rng())

    def open_data_set(self) -> Histories:
        """Opens the data set, which needs labels if they are learned from."""
        found = super().open_data_set()
        if self.expert == "data" and not found.has_labels:
            raise ValueError(f"{self.histories} has no labels: collect it with an expert")
        return found

    def labels(self, history: History) -> Any:
        """Returns the expert's actions at each step of the contexts."""
        if self.expert == "data":
            return history.labels
        expert = self.find(self.expert, self.fresh_rng())
        return optimal_actions(expert, history, self._base_env)
