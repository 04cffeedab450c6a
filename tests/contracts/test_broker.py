"""What the pipeline relies on in a broker's connection, held by the fake and by the real one over both protocols."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest
from fakes import FakeBroker
from peer import PATIENCE_S

from esp_ingestd.config import MqttSettings
from esp_ingestd.mqtt import Mqtt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services import BrokerAddress

    from esp_ingestd.pipeline import Alerts, Intake


class BrokerContract:
    """Intake may be paused and resumed at any time; a publication's result comes once the broker has it."""

    async def test_a_publication_is_accepted(self, publisher: Alerts) -> None:
        answers = [publisher.publish(f"contract/{number}", b"x", retain=False) for number in range(50)]
        assert await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_S) == [""] * 50

    async def test_a_publication_whose_result_nobody_waits_for_is_harmless(self, publisher: Alerts) -> None:
        publisher.publish("contract/a", b"x").cancel()
        await asyncio.wait_for(publisher.publish("contract/b", b"x"), PATIENCE_S)

    async def test_pausing_and_resuming_twice_is_as_once(self, intake: Intake, publisher: Alerts) -> None:
        for _ in range(2):
            intake.pause()
        for _ in range(2):
            intake.resume()
        await asyncio.wait_for(publisher.publish("contract/c", b"x"), PATIENCE_S)

    async def test_no_deliveries_need_no_acknowledgement(self, intake: Intake) -> None:
        assert intake.acknowledge([]) == 0


class TestFakeBroker(BrokerContract):
    @pytest.fixture
    async def intake(self) -> FakeBroker:
        return FakeBroker()

    @pytest.fixture
    async def publisher(self, intake: FakeBroker) -> FakeBroker:
        return intake


class TestMqtt(BrokerContract):
    @pytest.fixture(params=["5", "3.1.1"])
    async def intake(self, broker: BrokerAddress, request: pytest.FixtureRequest) -> AsyncIterator[Mqtt]:
        settings = MqttSettings(host=broker.host, port=broker.port, protocol=request.param)
        mqtt = Mqtt(settings, client_id=secrets.token_hex(4), keep_session=False)
        await mqtt.connect()
        yield mqtt
        await mqtt.close()

    @pytest.fixture
    async def publisher(self, intake: Mqtt) -> Mqtt:
        return intake
