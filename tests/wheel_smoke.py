"""Smoke test of the installed wheel; run it from an empty folder, outside the repository.

python -I tests/wheel_smoke.py
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import gymnasium as gym

SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"]).resolve()
SOURCES = Path(__file__).resolve().parent.parent
LAZY = ("torch", "mujoco", "stable_baselines3", "meta_rl.envs", "meta_rl.agents")


def check(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"wheel smoke test: {message}")


def check_import() -> None:
    """The wheel, not the sources, is imported, and it loads nothing heavy."""
    meta_rl = importlib.import_module("meta_rl")
    file = Path(str(meta_rl.__file__)).resolve()
    check(file.is_relative_to(SITE_PACKAGES), f"meta_rl comes from {file}, not {SITE_PACKAGES}")
    loaded = [name for name in LAZY if name in sys.modules]
    check(not loaded, f"`import meta_rl` loads {', '.join(loaded)}")
    version = importlib.metadata.version("meta-rl")
    check(meta_rl.__version__ == version, f"version {meta_rl.__version__}, metadata {version}")
    check(set(meta_rl.__all__) <= set(dir(meta_rl)), "dir(meta_rl) lacks public names")
    for name in meta_rl.__all__:
        check(getattr(meta_rl, name) is not None, f"meta_rl.{name} is None")


def check_files() -> None:
    """The wheel holds every shipped source file, and nothing beside meta_rl."""
    files = {str(file) for file in importlib.metadata.files("meta-rl") or ()}
    expected = {
        f"{package}/{file.relative_to(SOURCES / folder).as_posix()}"
        for package, folder in (
            ("meta_rl", "meta_rl"),
            ("meta_rl/envs", "envs"),
            ("meta_rl/agents", "agents"),
        )
        for pattern in (
            *("*.py", "*.pyi", "py.typed", "settings/*.toml", "cli/*.json"),
            "pretrained_agents/*",
        )
        for file in (SOURCES / folder).rglob(pattern)
    }
    check("meta_rl/py.typed" in expected, f"no sources to compare with in {SOURCES}")
    missing = sorted(expected - files)
    check(not missing, f"the wheel lacks {', '.join(missing)}")
    roots = {Path(file).parts[0] for file in files} - {".."}
    foreign = sorted(root for root in roots if root.partition("-")[0] != "meta_rl")
    check(not foreign, f"the wheel installs {', '.join(foreign)} beside meta_rl")
    for name in ("envs", "agents", "benchmarks", "tests"):
        check(not (SITE_PACKAGES / name).exists(), f"a top-level {name} is installed")
        check(importlib.util.find_spec(name) is None, f"a top-level {name} can be imported")


def check_environments() -> None:
    """Both front ends step, also where gymnasium itself imports meta_rl."""
    env = gym.make("meta_rl/BernoulliBandit-v0")
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(3):
        _, reward, _, _, _ = env.step(env.action_space.sample())
        check(reward in (0.0, 1.0), f"the reward of a Bernoulli bandit is {reward}")
    env.close()
    venv = gym.make_vec("meta_rl/BernoulliBandit-v0", num_envs=4)
    venv.reset(seed=0)
    for _ in range(3):
        _, rewards, _, _, _ = venv.step(venv.action_space.sample())
        check(rewards.shape == (4,), f"4 environments give rewards of shape {rewards.shape}")
    venv.close()
    env = gym.make("meta_rl:meta_rl/TabularMDP-v0")
    observation, _ = env.reset(seed=0)
    check(observation in env.observation_space, f"observation {observation} outside its space")
    env.close()


def check_modules() -> None:
    for name in ("meta_rl.envs.bandits", "meta_rl.envs.tabular_mdp", "meta_rl.agents.tabular"):
        importlib.import_module(name)


def check_command() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="meta-rl")
    check({script.value for script in scripts} == {"meta_rl.cli:main"}, "no meta-rl command")
    folder = sysconfig.get_paths()["scripts"]
    command = shutil.which("meta-rl", path=folder)
    check(command is not None, f"no meta-rl in {folder}")
    done = subprocess.run([str(command), "envs"], capture_output=True, text=True, check=False)
    check("meta_rl/BernoulliBandit-v0" in done.stdout, f"`meta-rl envs` fails: {done.stderr}")


def check_pretrained() -> None:
    """Every pretrained agent and learner loads, and one adapts."""
    meta_rl = importlib.import_module("meta_rl")
    names = importlib.import_module("meta_rl.pretrained").pretrained_names()
    for name in names:
        check(callable(meta_rl.load_pretrained(name, device="cpu").adapt), f"{name} cannot adapt")
    model = meta_rl.load_pretrained("varibad/GridNavigation", device="cpu")
    returns = model.adapt_to([4, 3], seed=0).returns
    check(returns[-1] > returns[0], f"varibad/GridNavigation earns {returns}")


def check_examples() -> None:
    """The ways of three users run with the installed wheel, in short."""
    for user, length in (("researcher", 2_560), ("robot_user", 1_024), ("text_user", 20)):
        folder = SOURCES / "docs" / "examples"
        program = (
            f"import runpy; way = runpy.run_path({str(folder / f'way_of_a_{user}.py')!r}); "
            f"print('value', way['main']({length}))"
        )
        command = [sys.executable, "-I", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        check("value" in done.stdout, f"the way of a {user} fails: {done.stderr}")


def check_first_programs() -> None:
    """The first programs of the documentation run from the wheel."""
    for name in ("first_agent", "sb3_robots"):
        example = SOURCES / "docs" / "examples" / f"{name}.py"
        command = [sys.executable, "-I", str(example)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        check(done.returncode == 0 and bool(done.stdout), f"{name}.py fails: {done.stderr}")


def main() -> None:
    check_import()
    check_files()
    check_modules()
    check_environments()
    check_command()
    check_pretrained()
    check_examples()
    check_first_programs()
    print(f"wheel smoke test: meta_rl {importlib.metadata.version('meta-rl')} passed")


if __name__ == "__main__":
    main()
