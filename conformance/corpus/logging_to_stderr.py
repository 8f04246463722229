import logging

logging.warning("without configuration")
logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s:%(filename)s:%(lineno)d")
logging.getLogger("x").error("configured %s", 1)
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("caught")
logging.error("bad %d format", "text")
