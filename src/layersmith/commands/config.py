"""Reading `--config`: constructor arguments of a part, given as a JSON object."""

from __future__ import annotations

import json
from typing import Any

from layersmith.errors import UserError


def parse_config(text: str) -> dict[str, Any]:
    """The arguments; a UserError that shows the form when the text is not a JSON object."""
    form = 'Write it like \'{"d_model": 32, "d_hidden": 64}\'.'
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config is not JSON ({error}). {form}") from error
    if not isinstance(config, dict):
        raise UserError(f"--config must be a JSON object of constructor arguments, not {text!r}. {form}")
    return config
