# frozen_string_literal: true

require "socket"

module LambdaSandboxRuntime
  # The API answered with something, or hung up in a way, that ends this runtime.
  class Refused < StandardError; end

  # The Runtime API over one kept-alive connection. Loading Net::HTTP would cost a cold start 100 ms.
  class Client
    BASE = "/2018-06-01/runtime"

    def initialize(address)
      @address = address
      connect
    end

    # Waits for an event: its header fields (names in lower case) and its bytes.
    def next
      status, headers, body = exchange("GET", "/invocation/next")
      raise Refused, "GET next was answered with #{status}: #{body[0, 200]}" unless status == 200

      [headers, body]
    end

    def respond(request_id, fields, body)
      recoverable(exchange("POST", "/invocation/#{request_id}/response", fields, body))
    end

    def report_error(request_id, fields, body)
      recoverable(exchange("POST", "/invocation/#{request_id}/error", fields, body))
    end

    def report_init_error(fields, body)
      exchange("POST", "/init/error", fields, body).first
    end

    private

    # After a 500 this environment cannot be used any more. Whatever else an answer is told, the next event comes as ever.
    def recoverable(reply)
      status, _, body = reply
      raise Refused, "an answer was answered with 500: #{body[0, 200]}" if status == 500
    end

    def connect
      host, _, port = @address.rpartition(":")
      @socket = TCPSocket.new(host, Integer(port))
      @socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
      @buffer = String.new(encoding: Encoding::BINARY)
      @used = @closed = false
    end

    def exchange(method, path, fields = {}, body = nil)
      head = String.new("#{method} #{BASE}#{path} HTTP/1.1\r\nHost: #{@address}\r\nUser-Agent: lambda-sandbox-ruby\r\n",
                        encoding: Encoding::BINARY)
      fields.each { |name, value| head << "#{name}: #{value}\r\n".b }
      head << "Content-Length: #{body.bytesize}\r\n" if body
      head << "\r\n"
      connect if @closed
      begin
        once(head, body)
      rescue Refused, SystemCallError
        raise if @answering || !@used

        connect # it was closed while nobody used it; an answer that did arrive is refused when it is sent again
        once(head, body)
      end
    rescue SystemCallError => e
      raise Refused, "the connection to the Runtime API broke: #{e.message}"
    end

    def once(head, body)
      @answering = false
      if body && body.bytesize < 65_536
        @socket.write(head + body.b)
      else
        @socket.write(head)
        @socket.write(body) if body
      end
      reply
    end

    def reply
      status, headers = head_of_reply
      status, headers = head_of_reply while status < 200 # 1xx: the reply proper is still to come
      body = headers.key?("transfer-encoding") ? chunks : take(headers.fetch("content-length", "0").to_i)
      @used = true
      if headers["connection"]&.casecmp?("close")
        @socket.close
        @closed = true
      end
      [status, headers, body]
    end

    def head_of_reply
      receive(65_536) until (ends = @buffer.index("\r\n\r\n"))
      first, *lines = @buffer.slice!(0, ends + 4).split("\r\n")
      headers = lines.to_h do |line|
        name, _, value = line.partition(":")
        [name.downcase, value.strip.force_encoding(Encoding::UTF_8)]
      end
      [first.split(" ", 3)[1].to_i, headers]
    end

    # A body in chunks: AWS's emulator sends larger events so.
    def chunks
      body = String.new(encoding: Encoding::BINARY)
      while (size = line.hex).positive? # extensions may follow it
        body << take(size)
        line
      end
      nil until line.empty? # trailers
      body
    end

    def line
      receive(65_536) until (ends = @buffer.index("\r\n"))
      @buffer.slice!(0, ends + 2)[0, ends]
    end

    def take(length)
      receive([length - @buffer.bytesize, 1 << 20].min) while @buffer.bytesize < length
      @buffer.slice!(0, length)
    end

    def receive(size)
      @buffer << @socket.readpartial(size)
      @answering = true
    rescue EOFError
      raise Refused, "the Runtime API closed the connection"
    end
  end
end
