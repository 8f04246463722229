try:
    bytearray(2**62)
except (MemoryError, OverflowError) as error:
    print(type(error).__name__)
[0] * 2**60
