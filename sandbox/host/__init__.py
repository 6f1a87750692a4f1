"""Who drives execution environments: one environment's shell, which environment gets an invoke, the library's face.

The only floor where wire, process and telemetry meet. It must not know the command line, or any API of the Lambda service.
"""
