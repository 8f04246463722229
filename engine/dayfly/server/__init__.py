"""The server, `dayfly serve`: an authenticated HTTP API in front of a pool, and a page to try it. The extra `server`.

A guest of the library: it uses the public face (and one ping of the engine), and the core never imports it. Its rooms, top to bottom:

    command    the command line: flags, `--check-config`, `key new`
    process    one server process: sockets, logs, signals, slow clients
    app        the HTTP face: routes, who may come in, every answer's form
    docs       the page of /schema and the page of /, as files and their headers
    service    the sandbox behind it: kept trying, run, drained; nothing of HTTP
    problems   what goes wrong, as application/problem+json
    quotas     rate and concurrency of a key: pure
    keys       API keys: made, hashed, compared, reloaded
    metrics, tracing   what is counted, and spans for who wants them
    config     one value with every setting, from a file, the environment and flags

It must never log a program or its output unless asked, nor listen beyond loopback without a key.
"""
