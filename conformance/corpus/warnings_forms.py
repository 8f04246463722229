import warnings

warnings.warn("a user warning")
warnings.warn("deprecated", DeprecationWarning)
warnings.warn("pending", PendingDeprecationWarning)
warnings.simplefilter("error")
warnings.warn("now an error")
