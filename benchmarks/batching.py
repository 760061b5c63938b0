"""Shared batching against the paper's batching: task-embeddings per second of a training step.

One network, one optimiser, the same number of images. With `triplets` batching an image serves
the one task that it was drawn for, with `shared` batching it serves all 20. Each repeat times one
step of each, in turn; drawing the batches is not timed. A task-embedding is one image embedded for
one task, with its part of the loss, the backward pass and the optimiser's step.
"""

from common import SIZES, TASKS, Trainer, data_of, ratios, settings_of

from modlib.speed import SHARED_BATCHING, row, side_by_side


def measure(data_root: str | None) -> dict:
    """Median of 15 repeats."""
    data = data_of(settings_of(data_root), data_root)
    trainers = {name: Trainer(settings_of(data_root, batching=name), data)
                for name in ("shared", "triplets")}
    seconds = side_by_side(
        {name: trainer.step for name, trainer in trainers.items()}, 15, warm_up=5)
    return {"rows": [row(
        SHARED_BATCHING, ratios(seconds["triplets"], seconds["shared"], len(TASKS)), SIZES,
        at_least=14)]}
