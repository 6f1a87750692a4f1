"""What happened: the journal of records, and the words in which logs speak of them.

Owns the shape of records and log lines. It must not know processes, HTTP or the machine; it is told.
"""
