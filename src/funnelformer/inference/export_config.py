"""The config of an export, read without transformers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..base.errors import UserError, joined
from ..base.json_toml import read_json
from ..config.model_options import ModelOptions

__all__ = ["ExportConfig", "read_export_config"]


@dataclass(kw_only=True, repr=False)
class ExportConfig(ModelOptions):
    """`FunnelformerConfig`, as far as running a graph needs it: the options, and what transformers says of labels."""

    architectures: list[str] | None = None
    id2label: dict[Any, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None
    num_labels: int | None = None

    def __post_init__(self) -> None:
        self._complete(num_labels=self.num_labels)
        if self.id2label is None:
            self.id2label = {number: f"LABEL_{number}" for number in range(self.num_labels or 2)}
        self.num_labels = len(self.id2label)


def read_export_config(folder: Path) -> ExportConfig:
    """Read the config in a folder, without keys that are not ours. Raises UserError naming file and key."""
    file = folder / "config.json"
    values = read_json(file)
    known = {field.name for field in fields(ExportConfig)}
    try:
        return ExportConfig(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: {joined(error)}") from error
