"""Real processes: start, isolate, limit, watch, stop, continue, kill, and read what they print.

Owns the tiers, process trees, namespaces, control groups, pipes, the memory watchdog and the environment variables. Only this
folder starts or signals a process of a function.
It must not know HTTP, the lifecycle's rules, or what a line of output means.
"""
