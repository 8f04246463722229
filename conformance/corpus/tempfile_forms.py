import os
import tempfile

with tempfile.NamedTemporaryFile("w+") as file:
    file.write("text")
    file.seek(0)
    print(file.read(), os.path.dirname(file.name))
with tempfile.TemporaryDirectory() as folder:
    print(os.listdir(folder), oct(os.stat(folder).st_mode & 0o777))
print(tempfile.gettempdir())
