"""Columns made of several columns: checked and bound to a schema once, then made of every Frame."""

from __future__ import annotations

from preprocessor_server.transform.derive.bind import Derivation, bind_derived
from preprocessor_server.transform.derive.kinds import RULES, derived_faults
from preprocessor_server.transform.derive.made import DerivedColumn, derive, needed

__all__ = [
    "RULES",
    "Derivation",
    "DerivedColumn",
    "bind_derived",
    "derive",
    "derived_faults",
    "needed",
]
