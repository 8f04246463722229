print("\ufeffbom in text", repr("\0"))
print(b"\0\1\2".decode().encode("unicode_escape"))
