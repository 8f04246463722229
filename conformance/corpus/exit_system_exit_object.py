class Code:
    def __str__(self):
        return "a code object"


raise SystemExit(Code())
