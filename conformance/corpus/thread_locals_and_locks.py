import threading

lock, local, total = threading.Lock(), threading.local(), []


def add(n):
    local.n = n
    with lock:
        total.append(local.n)


threads = [threading.Thread(target=add, args=(n,)) for n in range(20)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted(total), hasattr(local, "n"))
