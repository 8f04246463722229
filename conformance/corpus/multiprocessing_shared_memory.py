import multiprocessing
from multiprocessing import shared_memory


def work(name):
    memory = shared_memory.SharedMemory(name=name)
    memory.buf[0] = 42
    memory.close()


if __name__ == "__main__":
    memory = shared_memory.SharedMemory(create=True, size=64)
    process = multiprocessing.get_context("fork").Process(target=work, args=(memory.name,))
    process.start()
    process.join()
    print(memory.buf[0], process.exitcode)
    memory.close()
    memory.unlink()
