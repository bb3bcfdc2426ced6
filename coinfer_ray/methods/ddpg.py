"""Deep deterministic policy gradient (T. Lillicrap et al., ICLR 2016) over episodes of equal length, with the settings
of AMC (He et al., ECCV 2018), by stable-baselines3. The extra ``rl``.

What differs from AMC's own agent, as stable-baselines3 has it: one learning rate for actor and critic; the critic takes
state and action together from its first layer on; a hyperbolic tangent ends the actor, noise is clipped at the bounds
instead of drawn within them; no moving average is taken off the rewards; the reward belongs to the last step alone; and
exploration begins smaller and lasts to the end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import ActionNoise

HIDDEN = [300, 300]  # of actor and critic
LEARNING_RATE = 3e-4  # AMC: 1e-4 for the actor, 1e-3 for the critic
SOFT_UPDATE = 0.01  # tau
BATCH = 64
REPLAYED_EPISODES = 100
# The standard deviation of exploration, of actions in 0..1, and what each episode leaves of it. AMC's 0.5 and 0.95 are
# gone after a hundred episodes, and ended worse than as many random decisions; these end better
# (:mod:`coinfer_ray.reproduce.learning`).
NOISE, NOISE_DECAY = 0.3, 0.997


class Task(Protocol):
    """Episodes of ``steps`` decisions, each a number in 0..1 that a state of ``size`` numbers in 0..1 calls for."""

    @property
    def steps(self) -> int: ...

    @property
    def size(self) -> int: ...

    def reset(self) -> NDArray[np.float32]: ...

    def step(self, action: float) -> tuple[NDArray[np.float32], float, bool]: ...


def run_ddpg(task: Task, episodes: int, warm_up: int, seed: int) -> None:
    """Play ``episodes`` of the task, the first ``warm_up`` at random, and learn one step for each step of the others.

    On one thread, whatever torch may use, and with random streams of its own: the same ``seed`` (0..2**32 - 1) plays
    the same episodes, and nobody else's streams move.
    """
    environment = _Environment(task)
    with _apart():
        agent = DDPG(
            "MlpPolicy",
            environment,
            learning_rate=LEARNING_RATE,
            buffer_size=REPLAYED_EPISODES * task.steps,
            learning_starts=warm_up * task.steps,
            batch_size=BATCH,
            tau=SOFT_UPDATE,
            gamma=1.0,
            train_freq=(1, "episode"),
            gradient_steps=-1,
            action_noise=_DecayingNoise(warm_up, seed),
            policy_kwargs={"net_arch": HIDDEN},
            seed=seed,
            device="cpu",
        )
        agent.learn(episodes * task.steps, log_interval=episodes + 1)  # so that it logs nothing


class _Environment(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A task as gymnasium has it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (task.size,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, **options: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(**options)
        return self.task.reset(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        state, reward, end = self.task.step(float(action[0]))
        return state, reward, end, False, {}


class _DecayingNoise(ActionNoise):
    """Gaussian noise on actions in -1..1, nothing in the warm-up, then less with every episode."""

    def __init__(self, warm_up: int, seed: int) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self._learning = -warm_up

    def reset(self) -> None:
        """Told after every episode."""
        self._learning += 1

    def __call__(self) -> NDArray[np.float32]:
        width = 2 * NOISE * NOISE_DECAY**self._learning if self._learning >= 0 else 0.0
        return (width * self._random.standard_normal(1)).astype(np.float32)


@contextmanager
def _apart() -> Iterator[None]:
    """One torch thread, and the shared random streams, which stable-baselines3 seeds, as they were afterwards."""
    threads, torchs = torch.get_num_threads(), torch.get_rng_state()
    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(torchs)
        random.setstate(pythons)
        np.random.set_state(numpys)  # noqa: NPY002
