"""Functions that make a process kill itself with SIGKILL while it writes; run in a child, see `children`."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path

SAVES_BEFORE = 2  # so many checkpoints are written well


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_third_call(function, before):
    """`function`, that calls `before` with its arguments when it is called for the third time."""
    count = [0]

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] > SAVES_BEFORE:
            before(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapped


def in_the_weights():
    """Half of the file of weights is there."""
    from transformers import PreTrainedModel

    def half(self, folder, *args, **kwargs):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"\x08" * 1000)
        die()

    PreTrainedModel.save_pretrained = _at_third_call(PreTrainedModel.save_pretrained, half)


def in_the_optimizer():
    """Half of the optimizer's file is there, all of the weights."""
    import torch
    from transformers import Trainer

    save = torch.save

    def half(value, path, *args, **kwargs):
        save(value, path, *args, **kwargs)
        if str(path).endswith("optimizer.pt"):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def begin(self, *args, **kwargs):
        torch.save = half

    Trainer._save_optimizer_and_scheduler = _at_third_call(Trainer._save_optimizer_and_scheduler, begin)


def in_the_state():
    """The Trainer's state is half written."""
    from transformers import TrainerState

    def half(self, path):
        Path(path).write_text('{"best_metric": null, "glo')
        die()

    TrainerState.save_to_json = _at_third_call(TrainerState.save_to_json, half)


def before_the_mark():
    """Every file is there, but nothing says so."""
    from funnelformer.training.run import trainer

    trainer.mark_complete = _at_third_call(trainer.mark_complete, lambda folder: die())


def in_the_mark():
    """The list of files is written, but not in its place yet."""
    from funnelformer.training.run import folder as run

    replace = os.replace

    def begin(checkpoint):
        os.replace = lambda source, target: (
            die() if "complete.json" in str(target) else replace(source, target)
        )

    run.mark_complete = _at_third_call(run.mark_complete, begin)
    from funnelformer.training.run import trainer

    trainer.mark_complete = run.mark_complete


def in_the_deletion():
    """Of the oldest checkpoint some files are gone."""
    from funnelformer.training.run import folder as run

    def some(path, *args, **kwargs):
        (Path(path) / "optimizer.pt").unlink()
        die()

    run.shutil.rmtree = some


def in_the_final_save():
    """The config of the trained model is in its place, its weights are not."""
    replace = os.replace

    def first_alone(source, target):
        replace(source, target)
        if ".saving" in str(source):
            die()

    os.replace = first_alone


def of_process_1_in_its_random_state():
    """Process 0 writes everything of its own; process 1 dies before its random state."""
    from transformers import Trainer

    if os.environ.get("RANK") == "1":
        Trainer._save_rng_state = _at_third_call(Trainer._save_rng_state, lambda self, folder: die())


def of_process_1_in_its_shard():
    """Half of the shard of process 1 is there."""
    from torch.distributed.checkpoint import FileSystemWriter

    def half(self, plan, planner):
        shard = Path(self.path) / "__1_0.distcp"
        shard.write_bytes(b"PK" * 500)
        die()

    if os.environ.get("RANK") == "1":
        FileSystemWriter.write_data = _at_third_call(FileSystemWriter.write_data, half)


def the_disk_of_process_1_is_full():
    """From the third checkpoint on no file of it grows beyond 1000 bytes."""
    import resource

    from torch.distributed.checkpoint import FileSystemWriter

    def fill(self, plan, planner):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    if os.environ.get("RANK") == "1":
        FileSystemWriter.write_data = _at_third_call(FileSystemWriter.write_data, fill)


MOMENTS = (
    in_the_weights,
    in_the_optimizer,
    in_the_state,
    before_the_mark,
    in_the_mark,
    in_the_deletion,
    in_the_final_save,
)


def loss_of_process_1_is_nan():
    """In its fourth step, whatever process 0 computes."""
    from funnelformer import FunnelformerForMaskedLM

    original = FunnelformerForMaskedLM.forward
    count = [0]

    @functools.wraps(original)
    def forward(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        count[0] += self.training
        if self.training and count[0] == 4 and os.environ.get("RANK") == "1":
            output.loss = output.loss * float("nan")
        return output

    FunnelformerForMaskedLM.forward = forward


def teacher_in_small_parts() -> None:
    """A pass of a teacher writes many parts, with time enough to be killed between two."""
    from funnelformer.training.distillation import teacher_answers, teacher_outputs, token_rows
    from funnelformer.training.distillation.stored_parts import StoredParts

    token_rows.ROWS_PER_PART = teacher_outputs.ROWS_PER_PART = 32
    teacher_outputs._STATE_ROWS_PER_PART = teacher_answers.ROWS_PER_PART = 8
    write = StoredParts.write

    def slowly(self, number, arrays) -> None:
        write(self, number, arrays)
        time.sleep(0.1)

    StoredParts.write = slowly
