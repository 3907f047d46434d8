"""All architectures by name: `EVERY` is what quick tests run over, `SWEPT` what goes through a whole refit as well."""

from __future__ import annotations

from tests.architectures.decoders import DECODERS
from tests.architectures.encoders import ENCODERS
from tests.architectures.mixtures import MIXTURES
from tests.architectures.more_decoders import MORE_DECODERS
from tests.architectures.more_encoders import MORE_ENCODERS
from tests.architectures.more_senses import MORE_SENSES
from tests.architectures.recurrent import RECURRENT
from tests.architectures.senses import SENSES

EVERY = DECODERS | MIXTURES | RECURRENT | ENCODERS | SENSES
SWEPT = EVERY | MORE_DECODERS | MORE_ENCODERS | MORE_SENSES
