"""Two tricks of the shared pass against the plain way, for 1, 3 and 20 tasks: a training step.

*Folded scales*: scales multiplied into the next convolution's weights (`for_all_tasks_then`)
against a scaled copy of the features for every task, then the convolution. *Small maps*: 2×2 maps
as one matrix product (`SmallMapConv2d`) against torch's convolution. Each repeat times one step of
both, in turn, in one process; results are the same up to rounding (`tests/test_modulation.py`,
`tests/test_trunk.py`). Above 1 the trick pays.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from common import TASKS, Trainer, data_of, ratios, settings_of
from torch import nn

from modlib.modulation import ChannelScale
from modlib.speed import row, side_by_side
from modlib.trunk import SmallMapConv2d

PLAIN = {
    "scales folded into weights": (
        ChannelScale, "for_all_tasks_then",
        lambda self, convolution, features: convolution(self.for_all_tasks(features))),
    "small maps as a matrix product": (SmallMapConv2d, "forward", nn.Conv2d.forward),
}


@contextmanager
def plainly(trick: str) -> Iterator[None]:
    """Within it, a trick is not played."""
    owner, name, plain = PLAIN[trick]
    clever = getattr(owner, name)
    setattr(owner, name, plain)
    try:
        yield
    finally:
        setattr(owner, name, clever)


def measure(data_root: str | None) -> dict:
    """Median of 7 repeats."""
    rows = []
    for count in (1, 3, 20):
        settings = settings_of(data_root, tasks=TASKS[:count], batch_size=60)
        trainer = Trainer(settings, data_of(settings, data_root))
        for trick in PLAIN:
            def slow(trick=trick, trainer=trainer) -> None:
                with plainly(trick):
                    trainer.step()

            seconds = side_by_side({"plain": slow, "clever": trainer.step}, 7, warm_up=2)
            rows.append(row(
                f"training, {count} task{'s' * (count > 1)}: {trick} over the plain way",
                ratios(seconds["plain"], seconds["clever"]),
                "60 images of 64×64, half width, bfloat16, steps per second"))
    return {"rows": rows}
