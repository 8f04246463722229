import asyncio
import sys


async def main():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(input().upper())", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"from the pipe\n")
    print(out, process.returncode)


asyncio.run(main())
