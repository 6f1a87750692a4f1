# frozen_string_literal: true

require "time"

# What AWS's client has loaded, and functions rely on: Time.parse, URI, Timeout and Net::HTTP without require. What is dear is
# loaded when it is first used.
autoload :Timeout, "timeout"
autoload :URI, "uri"

module Net # not the whole of it: `module Net` is how net/protocol and its like begin, too
  autoload :HTTP, "net/http"
end

module Kernel
  def URI(uri) # rubocop:disable Naming/MethodName (uri.rb puts its own in this place)
    require "uri"
    URI(uri)
  end
  private :URI
end

# Before Ruby 3.2 suggestions and snippets of source are part of an error's message. AWS's rubies are newer, and have it bare.
if RUBY_VERSION < "3.2"
  nothing = Object.new
  def nothing.message_for(_) = ""
  DidYouMean.formatter = nothing if defined?(DidYouMean)
  ErrorHighlight.formatter = nothing if defined?(ErrorHighlight)
end

module LambdaSandboxRuntime
  # Debian keeps Ruby's bundled gems below /usr, and those that people of this machine installed elsewhere: a function gets the
  # former, as on Lambda, and not the latter. Other builds of Ruby have them all in one place.
  def self.find_bundled_gems
    return unless defined?(Gem)

    bundled = Gem.default_path.select { |folder| folder.start_with?("/usr/lib/", "/usr/share/") }
    return if bundled.empty? || Gem.default_dir.start_with?("/usr/lib/", "/usr/share/")

    given = ENV.fetch("GEM_PATH", "").split(":")
    Gem.use_paths(given.first || bundled.first, given + bundled)
  end
end
