import gc
import warnings

warnings.simplefilter("always")


def leak():
    open("/dev/null")


leak()
gc.collect()
print("end")
