"""The projects of :mod:`.own`, for every test here."""

from .own import project

__all__ = ["project"]
