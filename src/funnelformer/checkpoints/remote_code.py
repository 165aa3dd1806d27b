"""Folders that transformers loads without this package: our own, with the code of the models beside the weights.

The code is this package's, see `one_file`, and `config.json` names it (`auto_map`). Here such a folder is data as any
other of ours: its code is never run.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..base.errors import UserError
from ..base.foreign_code import CONFIG_CODE, MODEL_CODE
from ..base.version import __version__
from ..config.model_config import MIXERS, FunnelformerConfig
from ..mixers.mixer import mixer_class
from ..modeling import HEADS
from . import native
from .form_table import WRITTEN
from .loaded import Exported
from .one_file import Flattened, flatten

__all__ = ["auto_map", "export", "save", "sources"]

_CONFIG = (FunnelformerConfig.__module__, FunnelformerConfig.__name__)
_PACKAGE = __name__.partition(".")[0]
# Kernels of Triton, the operator of exported graphs, weights that are laid out anew, and folders of other libraries.
_WITHOUT_MODULES = tuple(
    f"{_PACKAGE}.{name}"
    for name in (
        "mixers.attention.fused",
        "mixers.attention.operator",
        "modeling.prepacked",
        "base.foreign_models",
    )
)
_WITHOUT_METHODS = {
    "FunnelformerConfig": ("from_name", "from_dict", "get_config_dict"),
    "FunnelformerPreTrainedModel": ("from_pretrained", "num_parameters", "_with_own_prefix"),
    "Mixer": ("flops",),
    "Attention": ("flops", "fix_table"),
    "PoNet": ("flops",),
    "Fourier": ("flops",),
}


def export(config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str) -> Exported:
    """The model as it is. Raises UserError for a mixer whose code does not come with the package."""
    for mixer in config.block_mixers:
        if mixer_class(mixer).__module__.partition(".")[0] != _PACKAGE:
            raise UserError(
                f"the mixer {mixer!r} is not part of funnelformer; only funnelformer's own code goes into the folder"
            )
    return Exported(config, dict(state), {}, {name: name for name in state}, architecture)


def save(
    config: FunnelformerConfig, state: Mapping[str, Tensor], architecture: str, folder: str | Path
) -> None:
    """Write what `native.save` writes, the two files of code, and their names in `config.json`."""
    config = copy.deepcopy(config)
    config.auto_map = auto_map(architecture)
    native.save(config, state, architecture, folder)
    for name, text in sources().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")


def auto_map(architecture: str) -> dict[str, str]:
    """transformers' Auto classes -> ours: of every head, as a model can be fine-tuned with another one than its own."""
    classes = {head.auto_class: head.model_class for head in HEADS.values() if head.auto_class is not None}
    if HEADS[architecture].auto_class is None:  # no Auto class is named after what it does
        classes["AutoModelForPreTraining"] = HEADS[architecture].model_class
    return {
        "AutoConfig": f"{CONFIG_CODE}.{FunnelformerConfig.__name__}",
        **{auto: f"{MODEL_CODE}.{ours.__name__}" for auto, ours in classes.items()},
    }


@functools.cache
def sources() -> dict[str, str]:
    """The files of code, by name: always the same ones for a version of this package."""
    config = flatten([_CONFIG], without_modules=_WITHOUT_MODULES, without_methods=_WITHOUT_METHODS)
    places = [location.partition(":") for location in MIXERS.values()]
    mixers = [(module, name) for module, _, name in places]
    table = ", ".join(f'"{name}": {place[2]}' for name, place in zip(MIXERS, places, strict=True))
    model = flatten(
        [*((head.model_class.__module__, head.model_class.__name__) for head in HEADS.values()), *mixers],
        without_modules=_WITHOUT_MODULES,
        without_methods=_WITHOUT_METHODS,
        replaced={
            (mixer_class.__module__, mixer_class.__name__): (
                f'def mixer_class(name: str):\n    """The class of a mixer\'s name."""\n    return {{{table}}}[name]\n'
            )
        },
        elsewhere=config.definitions,
    )
    shared = sorted({name for _, name in model.outside})
    return {
        f"{CONFIG_CODE}.py": _file("The configuration", config, ""),
        f"{MODEL_CODE}.py": _file("The models", model, f"from .{CONFIG_CODE} import {', '.join(shared)}\n\n"),
    }


def _file(title: str, file: Flattened, own: str) -> str:
    imports = "\n".join(file.imports)
    return (
        f'"""{title} of funnelformer {__version__} in one file, made from its sources (Apache-2.0): do not edit."""\n\n'
        f"from __future__ import annotations\n\n{imports}\n\n{own}{file.text}"
    )


# Read as the folder of ours that it is.
WRITTEN["remote-code"] = sys.modules[__name__]
