"""The HTTP faces of one execution environment.

Owns the bytes of the Runtime and Extensions APIs: HTTP/1.1, routes, headers, bodies, identifiers, refusals of browsers.
Turns requests into events of core.events and performs replies. It must not know processes, the journal, or who wants an invoke.
"""
