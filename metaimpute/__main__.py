"""``python -m metaimpute``."""

from .cli import main

main()
