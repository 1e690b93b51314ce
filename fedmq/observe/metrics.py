"""The metrics of one service: counters, gauges and histograms, in the text format of Prometheus.

Existing counts are read when a client asks; only histograms are updated for each event. The only module that imports
prometheus_client.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

Read = Callable[[], float | None]  # None: no value yet
ReadEach = Callable[[], Mapping[str, float]]  # values by the value of one label
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # bounds of buckets


class Reading(NamedTuple):
    """A metric, and the function that reads its values."""

    kind: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    text: str
    read: Read | ReadEach
    label: str


class Metrics(Collector):
    """The metrics of one service.

    Any thread may call the functions that read values: they must not iterate over data that changes.
    """

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self._about: tuple[str, str, Callable[[], Mapping[str, str]]] | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, text: str, read: Read | ReadEach, label: str = "") -> None:
        """Add a value that only grows; its name ends in `_total`."""
        self._readings.append(Reading(CounterMetricFamily, name, text, read, label))

    def gauge(self, name: str, text: str, read: Read | ReadEach, label: str = "") -> None:
        """Add a value that goes up and down."""
        self._readings.append(Reading(GaugeMetricFamily, name, text, read, label))

    def info(self, name: str, text: str, read: Callable[[], Mapping[str, str]]) -> None:
        """Add text about the service, as the labels of a metric that is 1; its name ends in `_info`."""
        self._about = (name, text, read)

    def histogram(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> Callable[[float], None]:
        """Add a histogram of durations; return the function that adds one duration, in seconds."""
        return Histogram(name, text, buckets=bounds, registry=self.registry).observe

    def collect(self) -> Iterator[Metric]:
        for kind, name, text, read, label in self._readings:
            family = kind(name, text, labels=[label] if label else None)
            value = read()
            for key, one in value.items() if isinstance(value, Mapping) else [(None, value)]:
                if one is not None:
                    family.add_metric([] if key is None else [key], one)
            yield family
        if self._about is not None:
            name, text, about = self._about
            yield InfoMetricFamily(name.removesuffix("_info"), text, value=dict(about()))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format that the header `Accept` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
