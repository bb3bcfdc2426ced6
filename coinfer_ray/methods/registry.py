"""The compared methods, by name: one file each, and one line here.

Every method answers a batch of scenarios of one problem (:class:`Method`); ``compare``, ``sweep`` and the page take
them from :data:`METHODS`.
"""

from __future__ import annotations

from typing import Protocol

from coinfer_ray.methods.all_local import AllLocal
from coinfer_ray.methods.all_server import AllServer
from coinfer_ray.methods.cia import Cia
from coinfer_ray.methods.dads import Dads
from coinfer_ray.methods.genetic import Genetic
from coinfer_ray.methods.neurosurgeon import Neurosurgeon
from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.prune_partition import PrunePartition
from coinfer_ray.methods.trained import Trained
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.scenarios.batch import ScenarioBatch


class Method(Protocol):
    """One compared method.

    ``name`` is what ``--methods`` takes, ``title`` what a table or figure prints. ``predicts``: whether it needs a
    problem with a predictor. ``plain``: whether it leaves the network unmodified, so that it answers any problem, and
    its latency stands beside every answer of a sweep. ``in_paper``: whether the paper's comparison has it.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def predicts(self) -> bool: ...
    @property
    def plain(self) -> bool: ...
    @property
    def in_paper(self) -> bool: ...

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The method's answer to each scenario of the batch.

        Raises:
            InputError: the method cannot answer this problem at all.
        """
        ...


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        AllLocal(),
        AllServer(),
        Neurosurgeon(),
        PrunePartition(),
        Trained("two_step", "2-Step Pruning"),
        Trained("fpgm", "FPGM"),
        Trained("bottlenetpp", "BottleNet++", encodes=True),
        Trained("jalad", "JALAD", in_paper=False),
        Trained("edgent", "Edgent-like early exits", in_paper=False),
        Dads(),
        Genetic(),
        Cia(),
        Proposed(),
    )
}
BEYOND_THE_PAPER = tuple(name for name, method in METHODS.items() if not method.in_paper)
PLAIN_METHODS = tuple(name for name, method in METHODS.items() if method.plain)
DEFAULT_METHODS = (*PLAIN_METHODS, Proposed.name)
