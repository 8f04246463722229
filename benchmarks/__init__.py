"""How fast dayfly is: against the engine's own limits, and side by side with what people use.
`make bench` runs it all.

    raw         the engine over bare sockets: the floor and the ceiling of everything here
    contenders  who is measured; each in a process of its own, driven over its stdin and stdout
    meters      what the kernel says of processor time and memory
    measure     the eight measurements
    report      targets, table, plots
    __main__    the command, and the peers' environment

Whatever is compared is measured in one run, taking turns, so that a noisy machine hits all alike.
"""
