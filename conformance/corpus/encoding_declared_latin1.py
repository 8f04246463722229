# -*- coding: ascii -*-
print("declared ascii", "\xe4")
