"""What the commands that use, convert and describe models can be told; those that train have a file each."""

from __future__ import annotations
