import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import urls
from curation.fetch.addresses import Allowed, host_address
from infra.errors import SluiceError

PUBLIC = Allowed()
LOOPBACK = Allowed(["127.0.0.0/8", "::1/128"])


def words(text: str) -> list[str]:
    return text.split()


REFUSED = words("""
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
    127.255.255.254 168.63.129.16 169.254.0.23 169.254.169.254 169.254.170.2 172.16.0.1
    172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::8.8.8.8 100::1 100:0:0:1::1 64:ff9b:1::8.8.8.8 5f00::1 fc00::1
    fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 2001:2::1 2001:10::1 2001:20::1
    2001:db8::1 3fff::1 4000::1
    ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:a00:1 ::ffff:0:10.0.0.1 64:ff9b::10.0.0.1
    64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:c0a8:101::c0a8:101
    2001:0:a00:1::f7f7:f7f7 2001:0:808:808::80ff:fffe
""")
PERMITTED = words("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 128.0.0.0 168.63.129.15
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 198.17.255.255
    198.20.0.0 223.255.255.255
    2000::1 2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450::1 3ffe::1
    ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1 2001:0:808:808::f7f7:f7f7
""")
LEADING_TO_IPV4 = [
    ipaddress.ip_network(text)
    for text in words("::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 2002::/16 2001::/32")
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_nobody_should_be_led_to_are_refused(address: str) -> None:
    assert not PUBLIC.permits(address)


@pytest.mark.parametrize("address", PERMITTED)
def test_public_addresses_are_permitted(address: str) -> None:
    assert PUBLIC.permits(address)


@given(st.ip_addresses())
def test_what_python_calls_private_or_the_like_is_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    odd = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or not address.is_global
    )
    if odd and not any(address in network for network in LEADING_TO_IPV4):
        assert not PUBLIC.permits(str(address))


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    value = int(address)
    public = 0x08080808
    forms = [
        0xFFFF << 32 | value,
        0xFFFF << 48 | value,
        0x64FF9B << 96 | value,
        0x2002 << 112 | value << 80,
        0x20010000 << 96 | public << 64 | value ^ 0xFFFFFFFF,
        0x20010000 << 96 | value << 64 | public ^ 0xFFFFFFFF,
    ]
    expected = PUBLIC.permits(str(address))
    for form in forms:
        assert PUBLIC.permits(str(ipaddress.IPv6Address(form))) == expected


def test_a_recipe_may_allow_ranges_and_only_those() -> None:
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "8.8.8.8"):
        assert LOOPBACK.permits(address)
    for address in ("10.0.0.1", "169.254.169.254", "::2", "::ffff:10.0.0.1"):
        assert not LOOPBACK.permits(address)


@pytest.mark.parametrize("network", ["", "localhost", "127.0.0.1/8", "1.2.3.4/33", "fe80::/10x"])
def test_what_is_no_network_is_an_error(network: str) -> None:
    with pytest.raises(SluiceError, match="no network"):
        Allowed([network])


@given(st.text())
def test_what_is_no_address_is_never_permitted_and_never_raises(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        assert not PUBLIC.permits(text)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("10.1.2", "10.1.0.2"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("169.254.43518", "169.254.169.254"),
        ("[::1]", "::1"),
        ("::FFFF:127.0.0.1", "::ffff:7f00:1"),
        ("[fe80::1%25eth0]", "fe80::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("example.com", None),
        ("256.0.0.1", None),
        ("1.2.3.4.5", None),
        ("1..2", None),
        ("08.1.1.1", None),
        ("0x1g", None),
        ("4294967296", None),
        ("1.2.3.256", None),
        ("", None),
        (".", None),
        ("1_0.1.1.1", None),
        ("0o7.1.1.1", None),
        ("0x0x7f.1", None),
        ("١٢٧.0.0.1", None),
        ("[::1", None),
    ],
)
def test_a_host_that_is_an_address_in_any_spelling(host: str, address: str | None) -> None:
    assert host_address(host) == address


PART = st.integers(0, 1 << 33).flatmap(
    lambda value: st.sampled_from([str(value), hex(value), f"0{value:o}", f"0X{value:X}"])
)
SMALL = st.integers(0, 300).flatmap(
    lambda value: st.sampled_from([str(value), hex(value), f"0{value:o}"])
)


@given(st.lists(SMALL, max_size=4), PART | SMALL)
def test_spellings_are_read_as_the_system_and_browsers_read_them(
    parts: list[str], last: str
) -> None:
    host = ".".join([*parts, last])
    try:
        expected = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        expected = None
    assert host_address(host) == expected
    target = urls.parse(f"http://{host}/")
    assert (target and target.host) == expected


@given(st.text())
def test_a_host_never_raises(host: str) -> None:
    address = host_address(host)
    assert address is None or str(ipaddress.ip_address(address)) == address
