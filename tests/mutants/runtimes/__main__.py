"""The runtime that the environment variable MUTANT names; without it the good one."""

import os

from .good import Runtime
from .mutants import MUTANTS

name = os.environ.get("MUTANT")
(MUTANTS[name].runtime if name else Runtime)().run()
