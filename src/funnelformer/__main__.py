"""`python -m funnelformer`."""

from .cli import main

main()
