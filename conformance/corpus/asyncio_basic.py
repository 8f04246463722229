import asyncio


async def worker(name, queue):
    while True:
        item = await queue.get()
        print(name, item)
        queue.task_done()
        if item == 3:
            return


async def main():
    queue = asyncio.Queue()
    for n in range(4):
        queue.put_nowait(n)
    await asyncio.wait_for(worker("w", queue), 10)
    print(await asyncio.gather(asyncio.sleep(0, "a"), asyncio.sleep(0, "b")))


asyncio.run(main())
