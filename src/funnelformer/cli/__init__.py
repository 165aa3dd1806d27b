"""The command line: parse, call the plain function, print.

`app` is the application, to which `training`, `inference`, `models` and `measuring` add commands; `entry` runs it.
"""

from .app import app
from .entry import main

__all__ = ["app", "main"]
