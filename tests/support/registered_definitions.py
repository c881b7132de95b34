"""A rule, a site and a task that are registered when this module is imported, as a program's own module does."""

from dataclasses import dataclass
from typing import ClassVar

import sparsedial as sd
from tests.support.custom_rules import AboveMean, CalibratedThreshold
from tests.support.custom_tasks import SumOfLogits


@sd.register_rule
@dataclass(frozen=True)
class OwnRule(AboveMean):
    """A rule that needs the vector only."""

    name: ClassVar[str] = "own_rule"


@sd.register_rule
@dataclass(frozen=True)
class OwnCalibratedRule(CalibratedThreshold):
    """A rule that is calibrated on the model."""

    name: ClassVar[str] = "own_calibrated_rule"

    @classmethod
    def calibrate(cls, lm, ffns):
        """Return a scale for each layer."""
        return {"scales": [0.1 * (ffn.layer + 1) for ffn in ffns]}


@sd.register_site
class OwnSite(sd.Site):
    """The input of the first layer."""

    name = "own_site"
    vectors = ("input",)

    def select(self, ffns):
        """Return the FFNs of the first layer."""
        return [ffn for ffn in ffns if ffn.layer == 0]


@sd.register_task
@dataclass(frozen=True)
class OwnTask(SumOfLogits):
    """A task with an option."""

    name: ClassVar[str] = "own_task"
