"""Streams for the programs of the agent's user.

Programs that know Twisted's endpoints come through the ``gate``, with ``endpoint_strings`` at their
end; for the others ``exposures`` lead peers to local ports, and ``forwarding`` these to peers.
"""
