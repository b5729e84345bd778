"""Files and folders over streams, in both directions (spec: agent.md, "Files").

``files`` is what an agent has. What is sent goes through ``tree``, ``outgoing``, ``sender`` and
``shipment``; what comes through ``receiver``, ``arriving`` and ``draft``, until it has its name in
the inbox. ``packets`` is what the two say to each other.
"""
