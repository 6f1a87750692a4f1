# frozen_string_literal: true

# Adds up the orders of an event; what it has seen since its cold start shows that the process is the same one.

require "logger"

LOGGER = Logger.new($stdout)
$seen = 0

def handler(event:, context:)
  orders = event["orders"]
  total = orders.sum { |order| order["quantity"] * order["price"] }
  $seen += orders.size
  LOGGER.info(format("%d orders, %.2f in all", orders.size, total))
  raise RangeError, format("%.2f is more than anybody may order", total) if total > 1000

  { total: total, seenSinceColdStart: $seen, remainingMs: context.get_remaining_time_in_millis }
end
