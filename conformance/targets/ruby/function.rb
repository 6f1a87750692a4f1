# frozen_string_literal: true

# The handlers that the conformance suite asks a runtime for, in Ruby.
module Suite
  @calls = 0

  module_function

  def echo(event:, context:) = event

  def error(event:, context:) = raise(ArgumentError, event["message"])

  def sleeps(event:, context:)
    sleep(event["ms"] / 1000.0)
    true
  end

  def ends(event:, context:) = exit!(event["code"])

  def big(event:, context:) = "x" * event["bytes"]

  def log(event:, context:)
    event["lines"].each { |line| $stdout.puts(line) }
    event["errors"].each { |line| warn(line) }
    true
  end

  def count(event:, context:)
    @calls += 1
  end

  def context(event:, context:)
    {
      requestId: context.aws_request_id,
      functionArn: context.invoked_function_arn,
      remainingMs: context.get_remaining_time_in_millis,
      traceId: ENV.fetch("_X_AMZN_TRACE_ID", nil),
      clientContext: context.client_context,
      identity: context.identity,
      tenantId: context.tenant_id,
      functionName: context.function_name,
      functionVersion: context.function_version,
      memoryMB: context.memory_limit_in_mb,
      logGroup: context.log_group_name,
      logStream: context.log_stream_name
    }
  end
end
