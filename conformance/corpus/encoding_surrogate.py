print("lone \udc80 surrogate")
