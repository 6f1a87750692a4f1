"""The lifecycle of one execution environment: pure, standard library only.

Owns every state, transition, limit and error type of the Lambda execution environment. `handle(event, now)` returns
effects; nothing in here does I/O, reads a clock or sleeps. It must not know HTTP, processes, payload bytes or who asks.
"""
