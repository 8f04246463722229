x = 1
if x is 1:
    print("literal")
print("\d")
assert (x, "always true")
