import asyncio
import gc


async def fail():
    raise ValueError("nobody asks")


async def main():
    task = asyncio.ensure_future(fail())
    task.set_name("named") if hasattr(task, "set_name") else None
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print(task.done())


asyncio.run(main())
gc.collect()
