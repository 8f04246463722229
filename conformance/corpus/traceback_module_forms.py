import sys
import traceback


def f():
    traceback.print_stack()
    print(traceback.extract_stack()[0].name, len(traceback.extract_stack()))
    raise ValueError


try:
    f()
except ValueError:
    print(traceback.format_exc())
    print(sys.exc_info()[2].tb_frame.f_globals["__name__"])
