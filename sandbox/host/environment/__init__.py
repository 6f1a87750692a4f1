"""The shell of ONE execution environment: it feeds the machine and performs what the machine asks for (rule 3).

A room per concern: `shell` (inbox, timers, connections, callers), `processes` (spawn, signal, exits, memory, output),
`ledger` (records, measured figures, the log of an invoke), `diagnosis` (what a person is told when something fails).
"""

from sandbox.host.environment.job import Job
from sandbox.host.environment.shell import Environment

__all__ = ["Environment", "Job"]
