numbers = [1]


class Thing:
    colour = 1


try:
    Thing().color
except AttributeError as error:
    print(error)
nubmers.append(2)
