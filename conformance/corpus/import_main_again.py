import sys

if __name__ == "__main__":
    import main

    print(main.__name__, main is sys.modules["__main__"], main.__file__)
else:
    print("imported as", __name__)
