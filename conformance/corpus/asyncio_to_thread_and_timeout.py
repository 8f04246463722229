import asyncio
import concurrent.futures
import time


async def main():
    loop = asyncio.get_running_loop()
    print(await loop.run_in_executor(None, lambda: 6 * 7))
    try:
        await asyncio.wait_for(asyncio.sleep(100), 0.05)
    except asyncio.TimeoutError:
        print("timed out")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        print(list(pool.map(lambda n: n * n, range(5))))
    time.sleep(0)


asyncio.run(main())
