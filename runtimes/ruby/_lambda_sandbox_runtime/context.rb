# frozen_string_literal: true

require "json"

# The handler's context. memory_limit_in_mb is a String, as on Lambda; identity and client_context are hashes, or nil.
class LambdaContext
  attr_reader :aws_request_id, :invoked_function_arn, :log_group_name, :log_stream_name, :function_name,
              :memory_limit_in_mb, :function_version, :identity, :client_context, :tenant_id, :deadline_ms

  W3C = %w[traceparent tracestate baggage].freeze
  private_constant :W3C

  def initialize(headers)
    @clock_difference = Process.clock_gettime(Process::CLOCK_REALTIME, :millisecond) - now
    @deadline_ms = headers["lambda-runtime-deadline-ms"].to_i
    @aws_request_id = headers["lambda-runtime-aws-request-id"].dup # the handler may change it as it likes
    @invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
    @tenant_id = filled(headers["lambda-runtime-aws-tenant-id"])
    @log_group_name = ENV.fetch("AWS_LAMBDA_LOG_GROUP_NAME", nil)
    @log_stream_name = ENV.fetch("AWS_LAMBDA_LOG_STREAM_NAME", nil)
    @function_name = ENV.fetch("AWS_LAMBDA_FUNCTION_NAME", nil)
    @memory_limit_in_mb = ENV.fetch("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", nil)
    @function_version = ENV.fetch("AWS_LAMBDA_FUNCTION_VERSION", nil)
    @identity = parsed(headers["lambda-runtime-cognito-identity"])
    @client_context = parsed(headers["lambda-runtime-client-context"])
    w3c = @client_context.is_a?(Hash) ? @client_context.delete("w3c") : nil
    @w3c = w3c.is_a?(Hash) ? w3c.slice(*W3C).select { |_, value| value.is_a?(String) } : {}
  end

  # Milliseconds until the deadline, never below 0.
  def get_remaining_time_in_millis
    [@deadline_ms - @clock_difference - now, 0].max
  end

  # traceparent, tracestate and baggage of the caller's client context.
  def w3c
    @w3c.dup
  end

  private

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC, :millisecond)
  end

  def filled(value)
    value unless value.nil? || value.empty?
  end

  def parsed(value)
    filled(value) && JSON.parse(value)
  end
end
