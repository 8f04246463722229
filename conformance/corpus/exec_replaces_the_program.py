import os

print("before exec")
os.execvp("python3", ["python3", "-c", "import sys; print('after', sys.argv); sys.exit(6)", "x"])
