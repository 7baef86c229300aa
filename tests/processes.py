"""What tests that start processes share."""

import os

# As a user has it: TensorFlow's log level is what the tests themselves have set.
QUIET = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
