"""How a plan is computed without torch: what every operation means, in plain numpy, in float32 and int8."""
