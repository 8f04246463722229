import pickle
import pickletools


class Node:
    def __init__(self, value, child=None):
        self.value, self.child = value, child

    def __repr__(self):
        return "Node(%r, %r)" % (self.value, self.child)


data = pickle.dumps(Node(1, Node("zwei")), 2)
print(data, pickle.loads(data))
pickletools.dis(pickle.dumps(Node, 0))
pickle.dumps(lambda: 1)
