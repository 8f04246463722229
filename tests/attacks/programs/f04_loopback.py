# covers = ["F4"]
# outcomes = ["ok"]
# stdout = "^hello$"
"""A server and its client, over TCP and over a Unix socket: what is one's own works."""

import os
import socket
import threading

for server in (socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)):
    if server.family == socket.AF_UNIX:
        server.bind("\0own")
        server.listen()
    threading.Thread(target=lambda server=server: server.accept()[0].sendall(b"hello")).start()
    client = socket.socket(server.family)
    client.connect(server.getsockname())
    assert client.recv(5) == b"hello"
os.write(1, b"hello")
