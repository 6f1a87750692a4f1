"""What happened: the journal of records, the words in which logs speak of them, and their way to telemetry subscribers.

Owns the shape of records, events and log lines, and the delivery: buffers, retries, what is dropped. It must not know
processes or the machine; it is told. Of HTTP it knows how to POST a batch, and nothing of the environment's own APIs.
"""
