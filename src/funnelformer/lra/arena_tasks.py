"""The tasks of the Long Range Arena, with what PoNet's authors trained them by.

Source: Tay et al. 2021, arXiv:2011.04006, section 2; recipes: Tan et al. 2022, arXiv:2110.02442, appendix.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import UserError, did_you_mean

__all__ = ["GENERATED", "TASKS", "Task", "find_task"]


@dataclass(frozen=True)
class Task:
    """One task and its recipe.

    length: tokens of the longest sequence. num_sequences: sequences of an example (Retrieval compares two).
    image_size: pixels a side where the sequence is an image, else None.
    batch_size, num_steps, num_warmup_steps, num_segments: the recipe; num_segments are PoNet's chunks.
    num_examples: of the release's train, validation and test part.
    selects: whether the validation part chooses the best checkpoint; not where it is the test part itself.
    """

    name: str
    title: str
    length: int
    vocab_size: int
    num_classes: int
    batch_size: int
    num_steps: int
    num_warmup_steps: int
    num_segments: int
    num_examples: tuple[int, int, int]
    num_sequences: int = 1
    image_size: int | None = None
    selects: bool = True

    @property
    def warmup(self) -> float:
        """Warm-up steps as a fraction of the steps."""
        return self.num_warmup_steps / self.num_steps


# Bytes are their value plus 1, 0 being padding; pixels are their grey value, and images are never padded.
_NUM_BYTES = 257
_NUM_GREYS = 256
_PATHFINDER_PARTS = (160_000, 20_000, 20_000)

TASKS = {
    task.name: task
    for task in (
        Task("listops", "ListOps", 2000, 16, 10, 32, 5000, 1000, 64, (96_000, 2000, 2000)),
        Task(
            *("text", "Text", 4000, _NUM_BYTES, 2, 32, 20_000, 8000, 2048, (25_000, 25_000, 25_000)),
            selects=False,
        ),
        Task(
            *("retrieval", "Retrieval", 4000, _NUM_BYTES, 2, 32, 30_000, 800, 64, (147_086, 18_090, 17_437)),
            num_sequences=2,
        ),
        Task(
            *("image", "Image", 1024, _NUM_GREYS, 10, 256, 35_000, 175, 32, (45_000, 5000, 10_000)),
            image_size=32,
        ),
        Task(
            *("pathfinder", "Pathfinder", 1024, _NUM_GREYS, 2, 256, 62_400, 312, 1, _PATHFINDER_PARTS),
            image_size=32,
        ),
        # PoNet's paper has no Path-X: the recipe is Pathfinder's.
        Task(
            *("path-x", "Path-X", 16_384, _NUM_GREYS, 2, 256, 62_400, 312, 1, _PATHFINDER_PARTS),
            image_size=128,
        ),
    )
}
# Those whose data can be generated here.
GENERATED = ("listops", "pathfinder", "path-x")


def find_task(name: str) -> Task:
    """The task with this name. Raises UserError, naming the nearest one, if there is none."""
    if name not in TASKS:
        raise UserError(f"no task {name!r}; known: {', '.join(TASKS)}{did_you_mean(name, TASKS)}")
    return TASKS[name]
