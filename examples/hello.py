"""The smallest program, and what it can see of where it runs."""

import os
import platform

print("Hello, world!")
print(f"Python {platform.python_version()}, uid {os.getuid()}, working directory {os.getcwd()}, files here: {os.listdir()}")
