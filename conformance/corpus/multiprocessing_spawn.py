import multiprocessing


class Thing:
    def __init__(self, n):
        self.n = n


def work(queue, thing):
    queue.put((thing.n, __name__, multiprocessing.current_process().name))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue, Thing(7)))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
