"""Real processes: start, limit, watch, stop, continue, kill, and read what they print.

Owns process trees, pipes, the memory watchdog and the environment variables. Only this folder starts or signals a process.
It must not know HTTP, the lifecycle's rules, or what a line of output means.
"""
