import asyncio


async def fail():
    raise ValueError("in a task")


async def main():
    await asyncio.create_task(fail())


asyncio.run(main())
