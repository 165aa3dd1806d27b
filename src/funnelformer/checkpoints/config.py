"""What `convert` can be told."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from ..base.options import ModelForm, grouped

__all__ = ["ConvertConfig"]


@grouped(
    most="source target layout layers to",
    model="set",
    run="verify dry_run",
    output="overwrite",
)
@dataclass
class ConvertConfig:
    """What `convert` can be told."""

    source: str
    "Folder of the model, a release's .tar.gz or its https:// URL, or a name on the Hub; its form is detected."
    target: Path
    "Folder to write."
    _: KW_ONLY
    to: ModelForm = "funnelformer"
    "Form to write."
    layout: str | None = None
    "Blocks to put the layers in, as B2-2-2: an encoder of one length becomes a funnel. The width stays."
    layers: str | None = None
    "Layers to keep, counted from 0, as 0,2,3,5; by default all, or as many as the layout has, evenly spaced."
    set: dict[str, str] | None = None
    "Config keys to change on the way, as --set.padding=exact."
    verify: str | None = None
    'Compare with the source\'s own outputs: "transformers" runs that library, a .npz has recorded cases.'
    dry_run: bool = False
    "Check everything, print the table of the tensors and what would be left out, and write nothing."
    overwrite: bool = False
    "Replace the files of a folder that is not empty."
