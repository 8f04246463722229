größe = "ß"
π = 3.14159
print(größe.upper(), π, "🦋", "שלום", "\N{GREEK SMALL LETTER ALPHA}", ascii("é"))
raise ValueError("ünïcödé 🦋")
