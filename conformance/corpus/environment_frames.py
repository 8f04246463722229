import sys

frame = sys._getframe()
depth = 0
while frame:
    print(frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno)
    frame, depth = frame.f_back, depth + 1
print(depth)
