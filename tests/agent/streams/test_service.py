"""The agent's part in streams as a service: its second socket, and what is kept over restarts."""

from __future__ import annotations

import socket
import stat
from typing import Any

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory

from abst.agent.streams.endpoint_strings import server_endpoint
from abst.agent.streams.exposure import Exposure
from abst.agent.streams.gate_lines import SOCKET_NAME
from tests.agent.streams.stage import Raw
from tests.agent.test_service import ServiceTestCase
from tests.device.streams.doubles import Built, Notes

NOTHING: dict[str, list[Any]] = {"exposed": [], "programs": [], "forwards": [], "streams": []}


class StreamsServiceTests(ServiceTestCase):
    async def status(self, home: Any) -> dict[str, Any]:
        """Return what the status says about streams."""
        result = (await self.ask(home, command="status"))["result"]
        return {key: result[key] for key in NOTHING}

    async def test_the_socket_for_streams_is_for_the_owner_alone(self) -> None:
        home = self.home()
        service = self.start(home)
        mode = (home.path / SOCKET_NAME).stat().st_mode
        self.assertEqual((True, 0o600), (stat.S_ISSOCK(mode), stat.S_IMODE(mode)))
        self.assertEqual(NOTHING, await self.status(home))
        self.services.remove(service)
        await service.stopService()
        self.assertFalse((home.path / SOCKET_NAME).exists())

    async def test_a_socket_that_a_killed_agent_has_left_is_replaced(self) -> None:
        home = self.home()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(home.streams_socket))
        self.start(home)
        self.assertEqual(NOTHING, await self.status(home))

    async def test_stopping_ends_what_programs_have(self) -> None:
        home = self.home()
        service = self.start(home)
        endpoint = UNIXClientEndpoint(self.reactor, str(home.streams_socket))
        raw: Any = await endpoint.connect(Factory.forProtocol(Raw))
        self.services.remove(service)
        await service.stopService()
        await self.until(lambda: raw.is_gone)

    async def test_what_programs_offer_is_shown(self) -> None:
        home = self.home()
        self.start(home)
        port: Any = await server_endpoint(self.reactor, "web", home=str(home)).listen(Built(Notes))
        offered = [{"service": "web", "peers": []}]
        self.assertEqual({**NOTHING, "programs": offered}, await self.status(home))
        listed = (await self.ask(home, command="expose_list"))["result"]
        self.assertEqual({"exposed": [], "programs": offered}, listed)
        await port.stopListening()
        while await self.status(home) != NOTHING:
            pass

    async def test_what_is_exposed_is_kept(self) -> None:
        home = self.home()
        service = self.start(home)
        told = await self.ask(home, command="expose", service="web", endpoint="tcp:127.0.0.1:80")
        entry: dict[str, Any] = {
            "service": "web",
            "endpoint": "tcp:127.0.0.1:80",
            "peers": [],
            "problem": None,
        }
        self.assertEqual({"result": entry}, told)
        self.services.remove(service)
        await service.stopService()
        self.start(home)
        self.assertEqual({**NOTHING, "exposed": [entry]}, await self.status(home))
        _, settings = home.open()
        self.assertEqual((Exposure("web", "tcp:127.0.0.1:80"),), settings.exposures)
        await self.ask(home, command="expose_remove", service="web")
        self.assertEqual((), home.open()[1].exposures)

    async def test_other_settings_do_not_lose_what_is_exposed(self) -> None:
        home = self.home()
        self.start(home)
        await self.ask(home, command="expose", service="web", endpoint="tcp:127.0.0.1:80")
        await self.ask(home, command="lan", setting="off")
        self.assertEqual(1, len(home.open()[1].exposures))

    async def test_a_forward_is_shown_while_it_lasts(self) -> None:
        home = self.home()
        service = self.start(home)
        assert service.device is not None
        other = self.start(self.home("b"))
        assert other.device is not None
        service.device.trust(other.device.device_id, "bob")
        request = {"peer": "bob", "service": "web", "endpoint": "tcp:0"}
        asking = await self.open(home, command="forward", **request)
        await self.until(lambda: asking.said)
        address = asking.said[0]["event"]["address"]
        ids = {"peer": "bob", "device_id": str(other.device.device_id)}
        forward = {**ids, "service": "web", "address": address}
        self.assertEqual([forward], (await self.status(home))["forwards"])
        asking.transport.loseConnection()  # type: ignore[union-attr]
        await asking.gone
        self.assertEqual(NOTHING, await self.status(home))
