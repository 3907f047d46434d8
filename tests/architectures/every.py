"""All architectures by name."""

from __future__ import annotations

from tests.architectures.decoders import DECODERS
from tests.architectures.encoders import ENCODERS
from tests.architectures.mixtures import MIXTURES
from tests.architectures.recurrent import RECURRENT
from tests.architectures.senses import SENSES

EVERY = DECODERS | MIXTURES | RECURRENT | ENCODERS | SENSES
