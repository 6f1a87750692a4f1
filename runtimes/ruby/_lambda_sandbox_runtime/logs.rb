# frozen_string_literal: true

require "json"
require "logger"

module LambdaSandboxRuntime
  # What the function prints: puts and Logger, to the log descriptor (framed) or to stdout.
  #
  # A frame is u32 type | u32 length | u64 µs | message, big endian; one record stays one record, however many lines it has.
  module Logs
    MARK = 0xa55b0000
    MAGIC = 0xa55a0002 # bit 1: the time is there; bit 0: text
    ATOMIC = 4096 # PIPE_BUF: a write of at most this much is never mixed with another
    LONG = Mutex.new # long records of threads are written one after the other
    LEVELS = { "DEBUG" => 2, "INFO" => 3, "WARN" => 4, "ERROR" => 5, "FATAL" => 6 }.freeze # as frames count them

    class << self
      attr_accessor :request_id
      attr_reader :json

      def set_up
        $stdout.sync = true
        fd = ENV.delete("_LAMBDA_TELEMETRY_LOG_FD") # children must not inherit it
        @json = ENV.fetch("AWS_LAMBDA_LOG_FORMAT", "").casecmp?("JSON")
        if fd
          @log = IO.for_fd(Integer(fd), "wb", autoclose: false)
          @log.close_on_exec = true
          @printed = $stdout.dup # a descriptor of our own: it works when the function has closed stdout
          @printed.binmode
          Kernel.prepend(Puts)
        end
        Logger.prepend(LambdaLogger)
      end

      def framed?
        !@log.nil?
      end

      # One record. level is Logger's word for it, json whether it is a JSON document.
      def write(text, level: nil, json: false)
        message = Faults.clean(text)
        unless framed?
          $stdout.write(message.end_with?("\n") ? message : "#{message}\n")
          return
        end
        frame(MAGIC | (json ? 0 : 1) | (LEVELS.fetch(level, 0) << 2), message.delete_suffix("\n").b)
      end

      # Tells the host that function init begins (1) or has ended (2).
      def mark(number)
        frame(MARK | number, "") if framed?
      end

      private

      # Short frames go down the pipe of stdout, which keeps their order among printed lines.
      def frame(type, message)
        micros = Process.clock_gettime(Process::CLOCK_REALTIME, :microsecond)
        data = [type, message.bytesize, micros].pack("NNQ>") << message
        if data.bytesize <= ATOMIC
          @printed.syswrite(data)
        else
          LONG.synchronize { data = data.byteslice(@log.syswrite(data)..) until data.empty? }
        end
      rescue IOError, SystemCallError # the function closed it: from here on as without
        @log = nil
      end
    end

    # puts without a receiver is one record, whatever it is given.
    module Puts
      def puts(*values)
        return super unless Logs.framed?

        text = values.flatten.map { |value| Faults.clean(value) }.join("\n")
        Logs.write(text)
        nil
      end
      private :puts
    end

    # The formatter of Lambda's Logger: the request id among the usual fields, or a JSON document.
    class Formatter < Logger::Formatter
      def call(severity, time, progname, message)
        return as_json(severity, time, progname, message) if Logs.json

        "#{severity[0]}, [#{time.strftime("%Y-%m-%dT%H:%M:%S.%6N")} ##{Process.pid}] #{severity.rjust(5)} " \
          "#{Logs.request_id} -- #{Faults.clean(progname)}: #{Faults.clean(msg2str(message))}\n"
      end

      private

      def as_json(severity, time, progname, message)
        error = message.is_a?(Exception) ? message : nil
        document = { timestamp: time.utc.strftime("%Y-%m-%dT%H:%M:%S.%6NZ"), level: severity,
                     message: Faults.clean(error ? error.message : msg2str(message)), requestId: Logs.request_id,
                     logger: progname.to_s.empty? ? nil : Faults.clean(progname) }
        document.merge!(errorType: error.class.to_s, errorMessage: Faults.clean(error.message),
                        stackTrace: error.backtrace&.map { |frame| Faults.clean(frame) }, location: location(error)) if error
        "#{JSON.generate(document.compact)}\n"
      end

      def location(error)
        first = error.backtrace&.first&.then { |frame| Faults.clean(frame) }
        parts = first&.match(/\A(.*?):(\d+)(?::in [`'](.*)')?/)
        parts ? "#{parts[1]}:#{parts[3]}:#{parts[2]}" : first
      end
    end

    # A device for Logger that keeps each record whole.
    class Device
      def write(record)
        text = Faults.clean(record)
        level = text[/\A[A-Z], \[[^\]]*\] +([A-Z]+) /, 1] || text[/\A\{"timestamp":"[^"]*","level":"([A-Z]+)"/, 1]
        Logs.write(text, level: level, json: Logs.json && text.start_with?("{"))
      end

      def close; end

      def reopen(*) = self
    end

    # Loggers on stdout, stderr or nothing write to the log; those on files stay as they are.
    module LambdaLogger
      def initialize(device, *rest, level: nil, formatter: nil, **options)
        ours = device.nil? || device.equal?($stdout) || device.equal?($stderr)
        if ours
          device = Device.new if Logs.framed?
          formatter ||= Formatter.new
          level ||= LambdaLogger.least
        end
        super(device, *rest, level: level || Logger::DEBUG, formatter: formatter, **options)
      end

      # AWS_LAMBDA_LOG_LEVEL, for loggers that are not told another.
      def self.least
        word = ENV.fetch("AWS_LAMBDA_LOG_LEVEL", "").upcase
        { "INFO" => Logger::INFO, "WARN" => Logger::WARN, "ERROR" => Logger::ERROR, "FATAL" => Logger::FATAL }
          .fetch(word, Logger::DEBUG)
      end
    end
  end
end
