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
    "Address of the cluster, as 10.0.0.1:6379; by default one of this machine alone is started."
    workers: Annotated[int | None, at_least(1)] = None
    "Most workers, each with a model; by default as many as the cluster has CPUs (or GPUs) for."
    worker_cpus: Annotated[int, at_least(1)] = 1
    "CPUs of a worker."
    worker_gpus: Annotated[float, at_least(0)] = 0
    "GPUs of a worker."

    def check_engine(self, *also_local: str, **unused: object) -> None:
        """Raise UserError for an option of the engine without it, for one that it does not take, and without Ray.

        unused: what it does not take, with its value.
        also_local: options of the engine that the command has without it, too.
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
    "ray spreads the rows over a cluster; data may then be a pattern or a folder, and all names may begin with s3://."
    rows_per_part: Annotated[int, at_least(1)] = 4096
    "Rows of a part, which is what is made again when a worker dies."
    resume: bool = False
    "Go on with a run: make only the parts that are not there."
