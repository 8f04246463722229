value = {"key": [1, 2, 3, "a rather long line that goes on and on", (4, 5], "more": "and more and more and more and more"}
