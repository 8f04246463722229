import runpy
import sys
import zipfile

with zipfile.ZipFile("app.zip", "w") as archive:
    archive.writestr("__main__.py", "print('run', __name__, __file__)")
    archive.writestr("inner.py", "def fail():\n    raise KeyError('zipped')\n")
runpy.run_path("app.zip", run_name="__main__")
sys.path.insert(0, "app.zip")
import inner

inner.fail()
