# frozen_string_literal: true

raise ArgumentError, "as the suite asked"
