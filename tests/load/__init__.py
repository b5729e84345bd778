"""Many devices, and strangers that attack, against a realm that is a real process.

Who makes the load is a process of its own: ``crowd`` has devices that keep to the specification,
``attacker`` has strangers that do not. Scenarios start them, ask them for figures, and judge.
``make soak`` runs them at full size, ``make test`` as small as it goes.
"""
