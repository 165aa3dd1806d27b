"""What `convert` can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from ..base.bundled import located
from ..base.card_options import CardOptions
from ..base.errors import UserError, did_you_mean
from ..base.options import ModelForm, OutFolder, OverwriteFolder, grouped

__all__ = ["ConvertConfig", "Layers"]


def _layers(_: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    """Read "0,2,3,5". Raises UserError for what are no whole numbers."""
    text = tokens[0].value
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--layers is {text!r}; allowed: numbers of layers, counted from 0, such as 0,2,3,5"
        ) from None


Layers = Annotated[tuple[int, ...] | None, Parameter(converter=_layers, n_tokens=1)]


@grouped(
    most="source target layout layers to",
    model="overrides",
    run="verify dry_run",
    output="overwrite",
)
@dataclass
class ConvertConfig(CardOptions):
    """What `convert` can be told."""

    source: str
    "Folder of the model, a release's .tar.gz or its https:// URL, or a name on the Hub; its format is detected."
    target: OutFolder
    to: ModelForm = "funnelformer"
    "Format to write."
    _: KW_ONLY
    layout: str | None = None
    "Blocks to put the layers in, such as B2-2-2: a standard encoder becomes a funnel. The width stays."
    layers: Layers = None
    "Layers to keep, counted from 0, as 0,2,3,5; by default all, or as many as the layout has, evenly spaced."
    overrides: Annotated[dict[str, str], Parameter(name="--set", negative="")] = field(default_factory=dict)
    "Config keys to change on the way, as --set.padding=exact."
    verify: str | None = None
    'Compare with the source\'s own outputs: "transformers" runs that library; a .npz file holds recorded cases.'
    dry_run: bool = False
    "Check everything, print the table of the tensors and what would be left out, and write nothing."
    overwrite: OverwriteFolder = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source, self.target = located(self.source), Path(self.target)
        if self.to not in get_args(ModelForm):
            known = get_args(ModelForm)
            raise UserError(
                f"to: {self.to!r} is not a format; allowed: {', '.join(known)}{did_you_mean(self.to, known)}"
            )
        if self.verify is not None and self.deals_layers:
            raise UserError("--verify compares with the source, whose layers --layout and --layers change")

    @property
    def deals_layers(self) -> bool:
        """Whether the layers were asked for in other blocks, or some of them alone."""
        return self.layout is not None or self.layers is not None
