# frozen_string_literal: true

require "json"

module LambdaSandboxRuntime
  # How errors are told: the document that the caller gets, the cause for X-Ray, the error type header.
  module Faults
    CAUSE_LIMIT = 1024 * 1024 # AWS's clients leave the header out beyond it
    OURS = "#{File.dirname(__dir__)}/"
    TRACE = 100
    CAUSE_TRACE = 15
    # Classes that AWS's client names in the header; any other is a UserException there, and by its own name in the body.
    NAMED = %w[ArgumentError NoMethodError Exception StandardError NameError LoadError SystemExit SystemStackError].freeze

    module_function

    # errorMessage, errorType, stackTrace. kind: Function, Init or Runtime.
    def document(error, kind)
      {
        errorMessage: message(error),
        errorType: "#{kind}<#{error.class}>",
        stackTrace: frames(error).first(TRACE)
      }
    end

    def error_type(error, kind)
      NAMED.include?(error.class.to_s) ? "#{kind}<#{error.class}>" : "Function<UserException>"
    end

    # For Lambda-Runtime-Function-XRay-Error-Cause; nil if it would be too long for a header.
    def cause(error, kind)
      stack = frames(error).first(CAUSE_TRACE).map do |frame|
        path, line, label = frame.match(/\A(.*?):(\d+)(?::in [`'](.*)')?/m)&.captures
        { path: path || frame, line: line.to_i, label: label || "" }
      end
      what = { message: message(error), type: "#{kind}<#{error.class}>", stack: stack }
      header = JSON.generate(working_directory: Dir.pwd, paths: stack.map { |frame| frame[:path] }.uniq, exceptions: [what])
      header if header.bytesize < CAUSE_LIMIT
    end

    def message(error)
      clean(error.message)
    rescue Exception # rubocop:disable Lint/RescueException (a message that fails must not hide the error itself)
      "#{error.class}: its message cannot be made"
    end

    # From the function's own code on: the frames of this runtime are left out.
    def frames(error)
      Array(error.backtrace).map { |frame| clean(frame) }.reject { |frame| frame.start_with?(OURS) }
    rescue Exception # rubocop:disable Lint/RescueException (a backtrace of the function's own making)
      []
    end

    # Text that JSON can hold.
    def clean(text)
      text = text.to_s
      text = text.dup.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
      text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
    end
  end
end
