# frozen_string_literal: true

require_relative "client"
require_relative "context"
require_relative "faults"
require_relative "handler"
require_relative "logs"
require_relative "surroundings"

# The loop: load the handler, then event by event.
module LambdaSandboxRuntime
  EXIT_INIT = 252
  EXIT_CRITICAL = 255
  Event = Struct.new(:headers, :body) do
    def [](name) = headers[name.downcase]
  end

  module_function

  def run
    @client = Client.new(ENV.fetch("AWS_LAMBDA_RUNTIME_API"))
    Logs.set_up
    find_bundled_gems
    Logs.mark(1)
    handler = load_handler
    Logs.mark(2)
    loop { serve_one(handler) }
  rescue Refused => e
    warn "lambda-sandbox: the Ruby runtime ends: #{e.message}"
    exit! 1
  rescue SignalException => e # SIGTERM between two invokes: the environment shuts down
    exit! 128 + e.signo
  end

  def load_handler
    root = ENV.fetch("LAMBDA_TASK_ROOT")
    $LOAD_PATH.unshift(root) unless $LOAD_PATH.include?(root)
    LambdaHandler.new(ENV.fetch("_HANDLER")).tap(&:load_file)
  rescue Refused, SignalException
    raise
  rescue Exception => e # rubocop:disable Lint/RescueException (LoadError, SyntaxError and exit are told, too)
    Logs.mark(2)
    fail_init(e)
  end

  def fail_init(error)
    told = Faults.document(error, "Init")
    log_error("Init error when loading handler #{ENV.fetch("_HANDLER")}", told)
    fields = { "Content-Type" => "application/json", "Lambda-Runtime-Function-Error-Type" => Faults.error_type(error, "Init") }
    @client.report_init_error(fields, JSON.generate(told))
    exit EXIT_INIT
  end

  def serve_one(handler)
    headers, body = @client.next
    @request_id = headers["lambda-runtime-aws-request-id"]
    nonce = headers["lambda-runtime-invocation-id"]
    @nonce = nonce ? { "Lambda-Runtime-Invocation-Id" => nonce } : {}
    trace = headers["lambda-runtime-trace-id"].to_s
    ENV["_X_AMZN_TRACE_ID"] = trace.empty? ? nil : trace
    $_global_aws_request_id = Logs.request_id = @request_id # rubocop:disable Style/GlobalVars (gems read it)
    begin
      answer, type = answer_of(handler, headers, body)
    rescue NameError, NoMethodError => e
      critical(e)
    rescue StandardError => e
      report("Error raised from handler method", e)
    rescue Exception => e # rubocop:disable Lint/RescueException (exit, LoadError, a deep recursion)
      critical(e)
    else
      flush
      @client.respond(@request_id, { "Content-Type" => type || "application/json" }.merge(@nonce), answer)
    end
  end

  def answer_of(handler, headers, body)
    event = AwsLambda::Marshaller.marshall_request(Event.new(headers, body.force_encoding(Encoding::UTF_8)))
    answer, type = AwsLambda::Marshaller.marshall_response(handler.call_handler(event, LambdaContext.new(headers)))
    answer = answer.read if answer.respond_to?(:read)
    raise TypeError, "the marshaller made a #{answer.class} of the response, not a String" unless answer.is_a?(String)

    [answer, type]
  end

  # After these AWS's client ends its process: the next invoke is a cold start.
  def critical(error)
    report("Critical exception from handler", error)
    exit EXIT_CRITICAL
  end

  def report(words, error)
    told = Faults.document(error, "Function")
    log_error(words, told)
    flush
    fields = { "Content-Type" => "application/json",
               "Lambda-Runtime-Function-Error-Type" => Faults.error_type(error, "Function"),
               "Lambda-Runtime-Function-XRay-Error-Cause" => Faults.cause(error, "Function") }
    @client.report_error(@request_id, fields.compact.merge(@nonce), JSON.generate(told))
  end

  def log_error(words, told)
    Logs.write(words, level: "ERROR")
    Logs.write(JSON.pretty_generate(told), level: "ERROR")
  end

  # What was printed must be in the log before the answer is out.
  def flush
    [$stdout, $stderr].each do |io|
      io.flush
    rescue IOError, SystemCallError, NoMethodError
      next # the function closed it, or put something else in its place
    end
  end
end
