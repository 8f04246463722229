import decimal
import fractions
import json

print(json.dumps({"ü": [1.0, 1e100, None, True]}, ensure_ascii=False), json.dumps(float("inf")))
print(decimal.Decimal(1) / 7, fractions.Fraction(1, 3), 0.1 + 0.2, 10**30, hash(1.5))
json.loads("{broken")
