"""Ignores every signal that can be ignored, and never ends. It is killed at its deadline; what it
wrote is kept."""

import signal

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
print("you will never stop me")
while True:
    pass
