"""How Hypothesis runs here: the same examples each time, and no limit of time on a step.

What is to land must not depend on luck or on how busy the machine is. Whoever looks for more than the same examples
find calls ``pytest --hypothesis-profile=explore``.
"""

from hypothesis import HealthCheck, settings

_UNHURRIED = [HealthCheck.too_slow]

settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=_UNHURRIED
)
settings.register_profile("explore", deadline=None, suppress_health_check=_UNHURRIED, max_examples=1000)
settings.load_profile("repeatable")
