"""Exit codes, fixed: people and scripts rely on them."""

from typing import Final

OK: Final = 0
FAILED: Final = 1  # the function failed: an error of its own, an exit, out of memory
USAGE: Final = 2  # usage or configuration
INIT_FAILED: Final = 3  # Init failed, a bad entry point included
TIMED_OUT: Final = 4
NOT_CONFORMING: Final = 5  # `sandbox conformance`: a requirement is broken
INTERRUPTED: Final = 130  # by Ctrl-C; by another signal it is 128 and the signal's number
