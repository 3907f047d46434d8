"""Takes a pretrained model apart: finds its sites, swaps what stands there, runs parts of it."""

from layersmith.anatomy.replay import Replay
from layersmith.anatomy.site import Anatomy, Site
from layersmith.anatomy.sites import find_sites
from layersmith.anatomy.span import original
from layersmith.anatomy.swap import check_fits, replacement_for, swap

__all__ = ["Anatomy", "Replay", "Site", "check_fits", "find_sites", "original", "replacement_for", "swap"]
