"""Adds up the orders of an event; what it has seen since its cold start shows that the process is the same one."""

import logging
import time

logger = logging.getLogger("orders")
logger.setLevel(logging.INFO)

STARTED = time.time()
seen = 0


def handler(event, context):
    global seen
    orders = event["orders"]
    total = sum(order["quantity"] * order["price"] for order in orders)
    seen += len(orders)
    logger.info("%d orders, %.2f in all", len(orders), total)
    if total > 1000:
        raise ValueError(f"{total:.2f} is more than anybody may order")
    return {
        "total": round(total, 2),
        "seenSinceColdStart": seen,
        "remainingMs": context.get_remaining_time_in_millis(),
    }
