"""What ``twistd`` and ``twist`` offer: the realm and the device agent, imported when asked for."""

from twisted.application.service import ServiceMaker

realm = ServiceMaker(
    "ABST realm",
    "abst.realm.tap",
    "A realm: relays packets between devices and cannot read them.",
    "abst-realm",
)

device = ServiceMaker(
    "ABST device",
    "abst.agent.tap",
    "The agent of a device: holds its identity, its realms and its peers.",
    "abst-device",
)
