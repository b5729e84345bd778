"""What lasts on a realm's disk: its groups, and what they keep (spec: groups.md, values.md).

``interface`` says what a store does; ``memory`` and ``sqlite`` do it.
"""
