print("asking")
input("> ")
