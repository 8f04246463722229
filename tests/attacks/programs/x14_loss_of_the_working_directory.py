# outcomes = ["error"]
# exit_code = 1
# stderr = "KeyError"
"""Make the working directory unreadable and go where none is, then fail."""

import os

os.mkdir("/tmp/x")
os.chdir("/tmp/x")
os.rmdir("/tmp/x")
os.chmod("/sandbox", 0)
os.chmod("/tmp/../sandbox", 0o000)
{}["x"]
