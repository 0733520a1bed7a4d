"""Which addresses may be connected to: public ones, and what the recipe allows besides.

The ranges are those of IANA's special-purpose address registries (RFC 6890), plus the services
of clouds that answer on addresses of their own.
"""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from infra.errors import SluiceError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REFUSED_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
    "127.0.0.0/8",  # loopback
    "168.63.129.16/32",  # Azure's host services
    "169.254.0.0/16",  # link-local; most clouds' metadata service
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # IETF protocols; Oracle's metadata service
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
# Of IPv6 only 2000::/3 is global unicast: loopback, link-local (fe80::/10), private (fc00::/7, with
# the metadata services fd00:ec2::254 and fd20:ce::254) and multicast all lie outside of it.
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
REFUSED_IPV6 = (
    "2001::/23",  # IETF protocols, benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "3fff::/20",  # documentation
)
# IPv6 that leads to an IPv4 address: by how many bits that one is shifted.
EMBEDDING = (
    ("::ffff:0:0/96", 0),  # IPv4-mapped (RFC 4291)
    ("::ffff:0:0:0/96", 0),  # IPv4-translated (RFC 2765)
    ("64:ff9b::/96", 0),  # NAT64 (RFC 6052)
    ("2002::/16", 80),  # 6to4 (RFC 3056)
)
TEREDO = ipaddress.IPv6Network("2001::/32")  # RFC 4380
_LOW_32 = 0xFFFFFFFF
_NUMBER = re.compile(r"0[xX]([0-9a-fA-F]{0,64})|(0[0-7]{0,252})|([1-9][0-9]{0,252})")


class Allowed:
    """Public addresses, and those in `networks` (CIDR: "127.0.0.0/8").

    SluiceError for what is no network.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [_network(text) for text in networks]

    def permits(self, address: str) -> bool:
        """Whether this IPv4 or IPv6 address may be connected to; False for anything else."""
        parsed = _parsed(address)
        return parsed is not None and self._permits(parsed)

    def _permits(self, address: Address) -> bool:
        if any(address in network for network in self._networks):
            return True
        if isinstance(address, ipaddress.IPv4Address):
            return not _IPV4.holds(int(address))
        embedded = _embedded(address)
        if embedded:
            return all(self._permits(inner) for inner in embedded)
        return address in GLOBAL_IPV6 and not _IPV6.holds(int(address))


def host_address(host: str) -> str | None:
    """The address that a URL's host is, written as usual; None for a name.

    Reads what inet_aton and with it most HTTP clients read: 127.1, 0x7f.0.0.1, 017700000001,
    2130706433. IPv6 may stand in brackets; its zone is dropped.
    """
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" in host:
        parsed = _parsed(host.partition("%")[0])
        return None if parsed is None else str(parsed)
    parts = host.removesuffix(".").split(".")
    if len(parts) > 4:
        return None
    numbers = [_number(part) for part in parts]
    address = 0
    for place, number in enumerate(numbers[:-1]):
        if number is None or number > 255:
            return None
        address |= number << 24 - 8 * place
    last = numbers[-1]
    if last is None or last >= 1 << 40 - 8 * len(parts):
        return None
    return str(ipaddress.IPv4Address(address | last))


def _number(text: str) -> int | None:
    """A part of an IPv4 address: decimal, 0x... hexadecimal, 0... octal."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    hexadecimal, octal, decimal = found.groups()
    if hexadecimal is not None:
        return int(hexadecimal or "0", 16)
    return int(decimal) if octal is None else int(octal, 8)


def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise SluiceError(
            f"{text!r} is no network of addresses: {error}", "write it like 127.0.0.0/8 or fd00::/8"
        ) from error


def _embedded(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that packets to `address` would be sent to."""
    value = int(address)
    if address in TEREDO:  # its server, and its client with all bits turned over
        found = [value >> 64, ~value]
    else:
        found = [value >> shift for network, shift in _EMBEDDING if address in network]
    return [ipaddress.IPv4Address(word & _LOW_32) for word in found]


class _Ranges:
    """Ranges of addresses that do not overlap, for quick look-up."""

    def __init__(self, networks: Iterable[str]) -> None:
        parsed = [ipaddress.ip_network(text) for text in networks]
        ranges = sorted((int(network[0]), int(network[-1])) for network in parsed)
        self._first = [first for first, _ in ranges]
        self._last = [last for _, last in ranges]

    def holds(self, address: int) -> bool:
        index = bisect_right(self._first, address) - 1
        return index >= 0 and address <= self._last[index]


_IPV4 = _Ranges(REFUSED_IPV4)
_IPV6 = _Ranges(REFUSED_IPV6)
_EMBEDDING = [(ipaddress.IPv6Network(network), shift) for network, shift in EMBEDDING]
