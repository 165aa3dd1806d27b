"""Reading and writing models: our own folders and those of other libraries, see docs/checkpoints.md."""

from .convert import Report, convert
from .folders import Loaded, detect, find_foreign, load_folder, load_foreign, resolve
from .torch_file import read_torch_file
from .weights import read_state_dict

__all__ = [
    "Loaded",
    "Report",
    "convert",
    "detect",
    "find_foreign",
    "load_folder",
    "load_foreign",
    "read_state_dict",
    "read_torch_file",
    "resolve",
]
