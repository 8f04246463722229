"""The server, `dayfly serve`: an HTTP API with keys in front of a pool, and a page to try it.

The extra `server`. It uses the library's public API (and one ping of the engine, and its address),
and the core never imports it. Its modules, top to bottom:

    command      the command line: flags, `--check-config`, `key new`
    process      one server process: its socket, descriptors and signals
    app          the ASGI application: routes, their errors, and the middleware around them
    middleware   what holds for every request: context, networks, HEAD, headers, the log line
    routes       paths and documentation
    fusion       POST /run_code: SandboxFusion's wire format
    piston       POST /api/v2/execute: Piston's wire format
    mcp          POST /mcp: tools for agents; the extra `mcp`
    guards       keys and types of requests
    runs         a request for a run, from its quotas to its answer: JSON or server-sent events
    context      what one request and one server know
    sessions     clients' sessions: whose, how many, why they ended
    service      the sandbox behind it: kept up, run in, closed; nothing of HTTP
    results      results as JSON
    docs         the page of /schema and the page of /
    bodies       request bodies: bounded, then decoded
    connections  connections: their number, and how a request may arrive
    turns        fair turns: whose run is next
    logs         the log, and how much of it strangers can cause
    metrics, tracing   what is counted, and spans where they are asked for
    problems     errors as application/problem+json
    quotas       rate and concurrency of a key: pure
    keys         API keys: made, hashed, compared, read again
    config       one value with every setting, from a file, the environment and flags

It must never log a program or its output unless asked, nor listen beyond loopback without a key.
"""
