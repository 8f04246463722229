# covers = ["D7"]
# outcomes = ["error"]
# [[runs]]
# args = ["0"]
# outcomes = ["ok"]
# exit_code = 0
# [[runs]]
# args = ["70"]
# exit_code = 70
# [[runs]]
# args = ["137"]
# exit_code = 137
# [[runs]]
# args = ["256"]
# outcomes = ["ok"]
# exit_code = 0
# [[runs]]
# args = ["-1"]
# exit_code = 255
# [[runs]]
# args = ["'text'"]
# exit_code = 1
# stderr = "^text\n$"
# [[runs]]
# args = ["None"]
# outcomes = ["ok"]
# exit_code = 0
"""Exit codes, the runner's own among them: none of them says anything but what the program said."""

import ast
import sys

sys.exit(ast.literal_eval(sys.argv[1]))
