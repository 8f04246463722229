import multiprocessing


def work():
    print("never")


multiprocessing.set_start_method("spawn")
process = multiprocessing.Process(target=work)
process.start()
process.join()
print(process.exitcode)
