"""Where a command runs: in this process, or on the machines of a Ray cluster."""

from dataclasses import dataclass, fields
from typing import Annotated

from ..base.errors import UserError
from ..base.options import Engine, at_least, flag, grouped
from ..base.packages import need

__all__ = ["ClusterOptions", "EngineOptions"]


@grouped(run="engine ray_address workers worker_cpus worker_gpus")
@dataclass(kw_only=True)
class ClusterOptions:
    """Where a command runs: in this process, or on the machines of a Ray cluster."""

    engine: Engine = "local"
    "ray spreads the work over the machines of a cluster."
    ray_address: str | None = None
    "Address of the cluster, such as 10.0.0.1:6379; by default a cluster of this machine alone is started."
    workers: Annotated[int | None, at_least(1)] = None
    "Most workers, each with a model of its own; by default as many as the cluster has CPUs (or GPUs) for."
    worker_cpus: Annotated[int, at_least(1)] = 1
    "Number of CPUs for each worker."
    worker_gpus: Annotated[float, at_least(0)] = 0
    "Number of GPUs for each worker; a fraction such as 0.5 lets workers share one."

    def check_engine(self, *also_local: str, **unused: object) -> None:
        """Raise UserError if the options contradict the engine, or if the engine is ray and Ray is not installed.

        also_local: names of options of this class that the command also reads without --engine ray; any other one must
            have its default there.
        unused: options of the command, with their values, that --engine ray does not read; each must be None or False.
        """
        if self.engine == "ray":
            for name, value in unused.items():
                if value not in (None, False):
                    raise UserError(f"{flag(name)} does not go with --engine ray")
            need("ray", extra="ray")
            return
        for entry in fields(EngineOptions if isinstance(self, EngineOptions) else ClusterOptions):
            if entry.name not in also_local and getattr(self, entry.name) != entry.default:
                raise UserError(f"{flag(entry.name)} needs --engine ray")


@grouped(output="rows_per_part resume")
@dataclass(kw_only=True)
class EngineOptions(ClusterOptions):
    """Where a command over many rows runs: in this process, or on the machines of a Ray cluster."""

    engine: Engine = "local"
    "ray spreads the rows over a cluster; data may then be a pattern or a folder, and any name may begin with s3://."
    rows_per_part: Annotated[int, at_least(1)] = 4096
    "Number of rows in a part. If a worker dies, only its current part is made again."
    resume: bool = False
    "Continue a run: make only the parts that are missing."
