"""What a person should look at in a run's labels, as a page, and which rows to label next."""

from .collect import Review, collect
from .page import page
from .suggest import Suggestion, suggest

__all__ = ["Review", "Suggestion", "collect", "page", "suggest"]
