"""Asynchronous invokes: the queue of events on disk, their attempts, and what is sent when they end (IN-100 … IN-111).

It knows the store's folder and invokes through `live`; it knows nothing of HTTP, and of AWS only what `destinations` sends.
"""
