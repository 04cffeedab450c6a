"""The daemon between the pumps' MQTT broker and TimescaleDB.

            MQTT broker                                                        TimescaleDB
                | deliveries (QoS 1, not yet acknowledged)                          ^
                v                                                                   | one transaction a batch
   mqtt --> core.decode --> core.well --> core.diagnosis --> core.alarm --> core.batch --> database
     ^           | rejection    features vs     condition and     alarm events |      | unavailable
     |           v              own baseline    the path to it                 v      v
     |       dead letter                                          alerts <-----+    spool (on disk) --+
     +------------------ ack, once all that came of it is durable <------------------+- drain <-------+

A delivery is acknowledged only when everything that came of it is durable.

Read in this order: core/reading.py, pipeline.py, storing.py, core/batch.py, core/alarm.py, database/, service.py.
"""

__version__ = "0.1.0"
