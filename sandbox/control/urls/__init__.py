"""Function URLs: their settings, a listener for each, requests as events, and answers as HTTP (IN-120 … IN-128).

It invokes through `live`, and knows nothing of the rest of the Lambda API.
"""
