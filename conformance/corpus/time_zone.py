import datetime
import time

print(time.tzname, time.timezone, datetime.datetime(2020, 2, 29).isoformat(), time.strftime("%Y", time.gmtime(0)))
