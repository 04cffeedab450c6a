"""How a connection to the broker is opened: name resolution, TLS, credentials, and what CONNECT says."""

import asyncio
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from esp_ingestd.config import MqttSettings
from esp_ingestd.errors import Unavailable, in_words
from esp_ingestd.mqtt.outbox import Publication
from esp_ingestd.mqtt.wire import BufferedPaho, Owner

CONNECT_TIMEOUT_S: Final = 10.0


class Opener:
    """Opens connections under one client id."""

    def __init__(self, settings: MqttSettings, client_id: str, *, keep_session: bool, receive_maximum: int) -> None:
        self.settings = settings
        self._client_id = client_id
        self._keep_session = keep_session
        self._receive_maximum = receive_maximum
        self.is_5 = settings.protocol == "5"
        """Whether MQTT 5 is spoken; to be unset where a broker refuses it."""

    @property
    def address(self) -> str:
        """Where the broker is."""
        return f"{'mqtts' if self.settings.use_tls else 'mqtt'}://{self.settings.host}:{self.settings.port}"

    def make_client(self, owner: Owner, last_will: Publication | None) -> BufferedPaho:
        """One that is not connected yet; `last_will` the broker publishes if we vanish.

        Raises:
            Unavailable: the certificates cannot be read.
        """
        settings = self.settings
        protocol = MQTTProtocolVersion.MQTTv5 if self.is_5 else MQTTProtocolVersion.MQTTv311
        client = BufferedPaho(owner, protocol, self._client_id, clean_session=not self._keep_session)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # `window` is ours; paho would walk through all of it at each PUBACK
        if settings.username:
            password = settings.password.get_secret_value() if settings.password else None
            client.username_pw_set(settings.username, password)
        if settings.use_tls:
            client.tls_set_context(self._tls_context())
        if last_will:
            client.will_set(last_will.topic, last_will.payload, qos=1, retain=last_will.retain)
        return client

    async def open(self, client: paho.Client) -> None:
        """Name resolution, TCP and TLS in a thread: paho blocks there. A daemon thread never delays the end.

        Raises:
            Unavailable: with what the network, or TLS, said.

        Cancel: the attempt is given up.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

        def connect() -> None:
            error: BaseException | None = None
            try:
                self._start_connection(client)
            except (OSError, ValueError) as failure:
                error = failure
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(settle, error)

        threading.Thread(target=connect, name="mqtt connect", daemon=True).start()
        try:
            await done
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(f"broker {self.address}: {error.verify_message}", kind="certificate") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"broker {self.address}: {in_words(error)}", kind="connection") from error

    def subscription_list(self, topics: Sequence[str]) -> list[Any]:
        """What SUBSCRIBE says of these topics."""
        if self.is_5:
            # Retained readings are not sent again at each reconnect: only to a new subscription.
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            return [(each, options) for each in topics]
        return [(each, 1) for each in topics]

    def _tls_context(self) -> ssl.SSLContext:
        settings = self.settings
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_cert_file:
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        except OSError as error:
            raise Unavailable(
                f"certificates of broker {self.address}: {in_words(error)}", kind="certificate"
            ) from error
        return context

    def _start_connection(self, client: paho.Client) -> None:
        settings = self.settings
        if not self.is_5:
            client.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session_expiry_s if self._keep_session else 0
        properties.ReceiveMaximum = self._receive_maximum
        clean = not self._keep_session
        client.connect(settings.host, settings.port, settings.keepalive_s, clean_start=clean, properties=properties)
