try:
    import no_such_module
except ModuleNotFoundError as error:
    print(error, error.name)
from os import no_such_name
