"""The writer that the user named, checked before any work is done for it."""

from __future__ import annotations

from collections.abc import Callable

from layersmith.explaining.options import ExplainConfig
from layersmith.explaining.wording.address import is_address, sent_to
from layersmith.explaining.wording.endpoint import Endpoint
from layersmith.explaining.wording.local import Local
from layersmith.explaining.wording.writer import Writer


def writer_of(config: ExplainConfig, device: str | None, tell: Callable[[str], None]) -> Writer | None:
    """The writer of `words_by`, None where none was named. UserError for one that cannot be reached, or cannot write.

    device  where a model of this machine runs
    tell    is told where text goes
    """
    if config.words_by is None:
        return None
    if is_address(config.words_by):
        assert config.words_model is not None  # options.check
        writer: Writer = Endpoint(config.words_by, config.words_model, config.words_timeout)
    else:
        writer = Local(config.words_by, config.trust_remote_code, device, tell)
    writer.check()
    if writer.address is not None:
        tell(sent_to(writer.address))
    return writer
