"""Published weights, one construction a file: networks written down, not trained, and what they are claimed to do.

This table is the only list of them; a class is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from layersmith.errors import UserError, suggest
from layersmith.facts import of as facts_of  # `facts` is a construction here

if TYPE_CHECKING:
    from layersmith.explaining.constructions.construction import Construction

_ROOM = "layersmith.explaining.constructions"

CONSTRUCTIONS: dict[str, str] = {
    "gradient_descent": f"{_ROOM}.gradient_descent:GradientDescent",
    "mesa_regression": f"{_ROOM}.mesa_regression:MesaRegression",
    "parity": f"{_ROOM}.parity:Parity",
    "first": f"{_ROOM}.first:First",
    "induction_head": f"{_ROOM}.induction_head:InductionHead",
    "gated_rnn": f"{_ROOM}.gated_rnn:GatedRNN",
    "connectivity": f"{_ROOM}.connectivity:Connectivity",
    "sparse_averages": f"{_ROOM}.sparse_averages:SparseAverages",
    "newton": f"{_ROOM}.newton:IterativeNewton",
    "facts": f"{_ROOM}.facts:Facts",
    "k_parity": f"{_ROOM}.k_parity:KParity",
    "versatile": f"{_ROOM}.versatile:Versatile",
    "one_step": f"{_ROOM}.one_step:OneStep",
    "regression_mixture": f"{_ROOM}.regression_mixture:RegressionMixture",
    "match2": f"{_ROOM}.match2:Match2",
    "automaton": f"{_ROOM}.automaton:Automaton",
    "next_step": f"{_ROOM}.next_step:NextStep",
    "permutations": f"{_ROOM}.permutations:Permutations",
    "order": f"{_ROOM}.order:WhichFirst",
    "associative_memory": f"{_ROOM}.associative_memory:AssociativeMemory",
    "attention_svm": f"{_ROOM}.attention_svm:AttentionSVM",
    "memorization": f"{_ROOM}.memorization:Memorization",
    "relu_symmetries": f"{_ROOM}.relu_symmetries:ReLUSymmetries",
    "prompted_machine": f"{_ROOM}.prompted_machine:PromptedMachine",
    "scan_and_snap": f"{_ROOM}.scan_and_snap:ScanAndSnap",
    "task_vectors": f"{_ROOM}.task_vectors:TaskVectors",
    "program": f"{_ROOM}.program:Program",
    "random_networks": f"{_ROOM}.random_networks:RandomNetworks",
    "arithmetic": f"{_ROOM}.arithmetic:Arithmetic",
    "boltzmann": f"{_ROOM}.boltzmann:Boltzmann",
    "exchangeable": f"{_ROOM}.exchangeable:Exchangeable",
    "softmax_regression": f"{_ROOM}.softmax_regression:ClosenessOfShifts",
    "primality": f"{_ROOM}.primality:Primality",
    "collapse": f"{_ROOM}.collapse:Collapse",
    "deep_descent": f"{_ROOM}.deep_descent:DeepOptimizer",
}


def check_construction(name: str) -> None:
    """Raise a UserError with the closest names for a name that is no construction's. Imports nothing."""
    if name not in CONSTRUCTIONS:
        near = suggest(name, list(CONSTRUCTIONS))
        raise UserError(f"Unknown construction {name!r}. {near} `layersmith construct` lists all {len(CONSTRUCTIONS)}.")


def check_settings(name: str, given: Iterable[str]) -> None:
    """Raise a UserError for a setting that the construction of that name does not have. Imports nothing."""
    known = facts_of(CONSTRUCTIONS[name]).keys["settings"]
    for setting in given:
        if setting not in known:
            near = suggest(setting, known) if known else "It has none."
            raise UserError(f"The construction {name!r} has no setting {setting!r}. {near}")


def get(name: str) -> Construction:
    """The construction of that name; a UserError with the closest names otherwise."""
    check_construction(name)
    module_name, _, class_name = CONSTRUCTIONS[name].partition(":")
    construction: type[Construction] = getattr(importlib.import_module(module_name), class_name)
    return construction()
