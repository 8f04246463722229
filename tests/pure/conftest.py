"""Properties are tested for what they say, not for how fast it can be shown: a machine under load must not fail one."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("pure", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pure")
