"""What puts features into words: any language model that answers a prompt. Two kinds: `endpoint.py`, `local.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Unanswered(Exception):
    """There is no answer to this one prompt, or none that can be read. The text says why; others may be answered."""


class Writer(ABC):
    """
    name      as pages and results name it
    address   where prompts are sent, and with them passages of the user's text; None where they stay on this machine
    identity  JSON: what its answers depend on besides the prompt. Answers are kept under it
    """

    name: str
    address: str | None
    identity: dict[str, Any]

    @abstractmethod
    def check(self) -> None:
        """Raise a UserError for a writer that cannot do it: in seconds, before any work. It is sent no text."""

    @abstractmethod
    def ask(self, prompt: str, most: int) -> str:
        """The answer to a prompt, of `most` tokens at most.

        Raises Unanswered where this prompt has none, and UserError where there is no point in asking on.
        """
