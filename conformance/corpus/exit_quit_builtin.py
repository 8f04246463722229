print(exit, quit, copyright is not None)
exit("bye")
