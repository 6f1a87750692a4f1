# frozen_string_literal: true

require "json"
require "stringio"

module AwsLambda
  # How events and results are translated. A function may put its own methods here, as with AWS's client.
  class Marshaller
    class << self
      # The event, from something with the request's header fields by [] and its body.
      def marshall_request(raw_request)
        return raw_request.body unless raw_request["Content-Type"] == "application/json"

        JSON.parse(raw_request.body)
      end

      # The body of the answer, and its content type.
      def marshall_response(method_response)
        case method_response
        when StringIO, IO then [method_response.read, "application/unknown"]
        else [method_response.to_json, "application/json"]
        end
      end
    end
  end
end

# What a handler's `self` is: methods of app.rb itself are private methods of every object.
class LambdaHandler
  MALFORMED = "must be of form FILENAME.METHOD or FILENAME.CLASS.METHOD where FILENAME corresponds with an existing Ruby " \
              "source file FILENAME.rb, CLASS is an optional module/class namespace and METHOD is a callable method. If " \
              "using CLASS, METHOD must be a class-level method."
  private_constant :MALFORMED

  # Raises ArgumentError for a name of another form.
  def initialize(name)
    parts = name.split(".")
    raise ArgumentError, "Invalid handler #{parts}, #{MALFORMED}" unless [2, 3].include?(parts.size)

    # Named as in AWS's client: a NameError's message shows them.
    @handler_file_name = parts.first
    @handler_method_name = parts.last
    @handler_class = parts[1] if parts.size == 3
  end

  # Raises whatever the file raises.
  def load_file
    require @handler_file_name
  end

  # A method that is not there is found out only here, as on Lambda.
  def call_handler(event, context)
    if @handler_class
      Kernel.const_get(@handler_class).send(@handler_method_name, event: event, context: context)
    else
      __send__(@handler_method_name, event: event, context: context)
    end
  end
end
