"""The address of an endpoint as a user names it, checked without asking anyone and without anything heavy imported."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from layersmith.errors import UserError


def is_address(name: str) -> bool:
    """Whether the name is meant to be an address, and not a folder's."""
    return "://" in name


def check_address(address: str) -> None:
    """Raise a UserError for what is no plain http(s) address. A refusal never repeats what may hold a secret."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # a port that is none is told by reading it
    except ValueError as error:
        raise UserError(f"The address of the writer cannot be read ({error}). Write http://host:port/v1.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(
            f"A writer's address begins with http:// or https:// and names a host; this one begins with "
            f"{parts.scheme + '://'!r}. Write, for example, http://localhost:8000/v1."
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "A writer's address holds no user, password, ? or #, because it is written into the result. Give the plain "
            "address (http://host:port/v1), and a key in the environment (docs/explain.md says how)."
        )
    if not address.isascii() or not address.isprintable() or " " in address:
        raise UserError("A writer's address is plain ASCII without spaces. Write, for example, http://host:8000/v1.")


def sent_to(address: str) -> str:
    """What has to be said wherever text leaves for an address."""
    return f"Passages of the text that is read are sent to {address.rstrip('/')}."


def is_here(address: str) -> bool:
    """Whether the address is this machine's own, which no proxy has to lead to."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
