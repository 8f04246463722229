code = "def f():\n    return 1 / 0\n"
exec(compile(code, "generated.py", "exec"))
try:
    eval("f() + 1")
except ZeroDivisionError:
    import traceback

    traceback.print_exc()
exec("raise LookupError('from exec')")
