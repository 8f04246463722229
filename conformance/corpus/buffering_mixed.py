import os
import sys

sys.stdout.write("one ")
os.write(1, b"two ")
sys.stdout.buffer.write(b"three ")
sys.stderr.write("err one ")
os.write(2, b"err two\n")
print("four")
print(sys.stdout.line_buffering, sys.stdout.write_through, sys.stderr.line_buffering)
