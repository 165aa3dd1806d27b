"""How long processes wait for each other."""

import datetime

import accelerate

from funnelformer.base import processes
from funnelformer.training.run.folder import RunConfig
from funnelformer.training.run.trainer import training_arguments


def test_a_long_probe_does_not_end_the_run(monkeypatch, tmp_path):
    """The process group is made here, before the Trainer's own arguments could say how long it waits."""
    made = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", lambda **settings: made.append(settings))
    processes.start_processes(cpu=True)
    assert made == [{"cpu": True, "timeout": datetime.timedelta(hours=3)}]
    monkeypatch.undo()
    config = RunConfig(out=tmp_path, device="cpu")
    assert training_arguments(config, 1, learning_rate=1e-4).ddp_timeout == 3 * 3600
