import os

for folder in (".", "/", "/tmp"):
    print(folder, sorted(os.listdir(folder))[:60], oct(os.stat(folder).st_mode & 0o7777))
print(open("main.py").read().count("open"), os.path.abspath("main.py"), oct(os.stat("main.py").st_mode))
