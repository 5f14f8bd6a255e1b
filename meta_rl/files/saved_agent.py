"""Saving and loading of agents."""

from __future__ import annotations

import inspect
import io
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_device, get_system_info

from meta_rl.compute import ranks
from meta_rl.files.plain_data import UnsavableError
from meta_rl.files.sealed import WRONG_CONTENT, Saved, read_file, write_file
from meta_rl.make import family_name, make_task_vec
from meta_rl.vector.sb3_view import TaskVecEnvView


class SavedAgent(BaseAlgorithm):
    """The part of an agent that saves and loads it, with the arguments of Stable-Baselines3."""

    policy_aliases: ClassVar[dict[str, type[Any]]] = {}
    _num_iterations: int
    generator: torch.Generator
    _generator_state: np.ndarray | None
    env: TaskVecEnvView | None

    @abstractmethod
    def check_saved(self, iteration: int) -> None:
        """Refuses to save what is not finite."""

    def _excluded_save_params(self) -> list[str]:
        made = ["generator", "lr_schedule", "_last_obs", "_last_episode_starts", "row_draws"]
        return [*super()._excluded_save_params(), *made]

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Saves everything that training needs to go on, atomically.

        The file is written beside its place and moved there when it is whole, so that a run killed
        meanwhile leaves the earlier file.

        Args:
            path: Path of the file (``.zip`` may be left out), or a file that is open for writing.
            exclude: Names of attributes to leave out. A file cannot hold functions or classes of
                your own: leave them out, and give them to :meth:`load` again.
            include: Names of attributes to save that are otherwise left out.

        Raises:
            FloatingPointError: Something that is learned is not finite; no file is touched.
            ValueError: An attribute cannot be saved; the error names it, and no file is touched.
        """
        self.check_saved(self._num_iterations)
        self._generator_state = self.generator.get_state().numpy()
        left_out = set(exclude or ())
        made = {name.partition(".")[0] for name in self._get_torch_save_params()[0]}
        unsaved = (left_out | set(self._excluded_save_params())) - set(include or ()) | made
        attributes = {key: value for key, value in vars(self).items() if key not in unsaved}
        try:
            content = self.plain_content(attributes, self.get_parameters(), left_out)
            write_file(path, Saved(type(self).__name__, content))
        except UnsavableError as error:
            name = "policy_class" if error.name == "policy" else error.name.partition("[")[0]
            raise ValueError(
                f"{error}. Leave it out by save(path, exclude=[{name!r}]), and give it again by "
                f"load(path, custom_objects={{{name!r}: ...}})"
            ) from error

    @classmethod
    def plain_content(
        cls, attributes: dict[str, Any], parameters: dict[str, Any], left_out: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Returns the content of a file, in which the policy's class is a name."""
        policy = attributes.get("policy_class")
        if policy is not None:
            names = {owner: name for name, owner in cls.policy_aliases.items()}
            if policy not in names:
                raise UnsavableError("policy", f"{policy.__name__} is a class of your own")
            attributes = {**attributes, "policy_class": names[policy]}
        needed = {"policy_class", *inspect.signature(cls).parameters}
        return {
            "attributes": attributes,
            "parameters": parameters,
            "left_out": sorted(needed & set(left_out)),
        }

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | VectorEnv | str | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust_pickle: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads what :meth:`save` wrote; nothing in the file is run.

        Args:
            path: Path of the file, whose suffix ``.zip`` may be left out.
            env: Environment for further training, of the family that the agent was trained on; an
                id makes as many sub-environments as it had. (``set_env`` takes any with the same
                spaces.)
            device: Device of the networks.
            custom_objects: Attributes in place of those in the file, by name, such as a function
                that was left out on saving.
            print_system_info: Whether the versions of the packages are printed.
            force_reset: Present as in Stable-Baselines3; every iteration begins with a reset.
            trust_pickle: Whether a file of the former format is loaded, which may run code: only
                for files from sources that you trust.
            **kwargs: Further attributes in place of those in the file, by name.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, has the former format, or is of another algorithm or
                environment; or something that was left out on saving is missing.
        """
        if print_system_info:
            get_system_info()
        device = get_device(device)
        content = read_file(path, cls.__name__, device=device, trust_pickle=trust_pickle).content
        try:
            attributes = _with_given(content, {**(custom_objects or {}), **kwargs})
            view = None if env is None else cls._view_for(env, attributes)
            return cls._made_from(attributes, content["parameters"], view, device)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except WRONG_CONTENT as error:
            raise ValueError(f"{path} is a corrupt checkpoint: {error}") from error

    @classmethod
    def _view_for(cls, env: Any, attributes: dict[str, Any]) -> Any:
        """Returns the view of an environment, if it is of the family and has the saved spaces."""
        if isinstance(env, str):
            per_task = attributes.get("envs_per_task", 1)
            num_tasks = attributes["meta_batch_size"]
            num_tasks = ranks.share("meta_batch_size", num_tasks)
            env = make_task_vec(env, num_tasks, per_task, **attributes["env_kwargs"])
        view: Any = cls._wrap_env(env)
        family = family_name(view.task_env)
        if family != attributes["family"]:
            raise ValueError(
                f"it was trained on {attributes['family']}, not on {family}; to carry an agent "
                "over, load it without an environment and call set_env(env)"
            )
        check_for_correct_spaces(view, attributes["observation_space"], attributes["action_space"])
        return view

    @classmethod
    def _made_from(
        cls, attributes: dict[str, Any], parameters: dict[str, Any], view: Any, device: torch.device
    ) -> Self:
        make: Any = cls
        policy = attributes.pop("policy_class")
        agent = make(policy=policy, env=view, device=device, _init_setup_model=False)
        vars(agent).update(attributes)
        if view is not None:
            agent.n_envs = view.num_envs
        agent._setup_model()
        agent.set_parameters(dict(parameters), exact_match=True, device=device)
        for name in agent._get_torch_save_params()[1]:  # tensors that the setup made anew
            setattr(agent, name, attributes[name])
        return agent

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Sets parameters from a file of this class, or from a dictionary.

        Args:
            load_path_or_dict: Path of the file, or what ``get_parameters`` returned.
            exact_match: Whether every parameter has to be there.
            device: Device of the tensors that are read.
        """
        if not isinstance(load_path_or_dict, dict):
            saved = read_file(load_path_or_dict, type(self).__name__, device=get_device(device))
            load_path_or_dict = saved.content["parameters"]
        super().set_parameters(load_path_or_dict, exact_match, device)


def _with_given(content: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a file, some of which are given anew.

    Raises:
        ValueError: Something that was left out on saving is not given, or networks of another kind
            are.
    """
    missing = [name for name in content["left_out"] if name not in given]
    if missing:
        raise ValueError(
            f"it was saved without {' and '.join(missing)}; "
            f"load(path, custom_objects={{{missing[0]!r}: ...}})"
        )
    saved = content["attributes"]
    if given.get("policy_kwargs", saved["policy_kwargs"]) != saved["policy_kwargs"]:
        raise ValueError(
            f"policy_kwargs cannot change on loading: {saved['policy_kwargs']} in the file, "
            f"{given['policy_kwargs']} given"
        )
    return {**saved, **given}
