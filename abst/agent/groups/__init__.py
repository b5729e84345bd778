"""Groups, networks and values, as the agent has them.

``factory`` is what the device's groups call, ``offers`` decides about groups that peers offer, and
``commands`` and ``values`` are what the command line asks for.
"""
