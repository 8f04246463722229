# covers = ["B4"]
# outcomes = ["ok"]
# [[runs]]
# args = ["999999"]
# truncated = false
# [[runs]]
# args = ["1000000"]
# truncated = false
# [[runs]]
# args = ["1000001"]
# truncated = true
# [[runs]]
# args = ["1000000"]
# truncated = false
# kill_on_output = true
"""One byte less than the limit, the limit, one more."""

import sys

sys.stdout.write("x" * int(sys.argv[1]))
