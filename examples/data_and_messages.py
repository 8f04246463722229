"""Takes a JSON value from the host, and sends values back beside its output."""

import sandbox

for number in sandbox.data["numbers"]:
    sandbox.send({"number": number, "square": number**2})
print("sent", len(sandbox.data["numbers"]), "messages")
