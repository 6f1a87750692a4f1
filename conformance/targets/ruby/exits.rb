# frozen_string_literal: true

exit!(7)
