"""Every mutant, by its name."""

from __future__ import annotations

from . import wrong_answers, wrong_events, wrong_lives, wrong_polls
from .table import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant", "wrong_answers", "wrong_events", "wrong_lives", "wrong_polls"]
