"""``fleetcast bench``: the product beside what a user would pick instead, measured in the same run."""
