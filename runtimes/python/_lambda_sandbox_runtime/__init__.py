"""A managed Python runtime for AWS Lambda: standard library only, small, quick to start.

`main` the loop · `client` the Runtime API · `loading` the handler · `context` its second argument · `logs` what it prints ·
`faults` how errors are told.
"""
