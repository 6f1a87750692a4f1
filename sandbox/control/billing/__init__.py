"""What a run would have cost: totals of what was billed, published prices as dated data, and the report of both (BL rows).

`totals` listens to the journal and writes; `prices` and `costs` are pure.
"""
