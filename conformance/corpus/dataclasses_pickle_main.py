import dataclasses
import pickle


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


print(pickle.loads(pickle.dumps(Point(1, 2))), Point.__module__)
print(pickle.dumps(Point(3), 0))
