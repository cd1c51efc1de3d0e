"""By which names the page may be asked for."""

from __future__ import annotations

import pytest

from twinlens.apps.web.hosts import list_hosts
from twinlens.core.errors import ParamsError


def test_on_this_machine_only_its_own_names_are_known() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "LOCALHOST", "0:0:0:0:0:0:0:1"):
        ours = list_hosts(host)
        for good in ("127.0.0.1", "127.0.0.1:7860", "localhost:1", "LocalHost", "[::1]", "[::1]:7860", "[0::1]:80"):
            assert ours.has(good), (host, good)
        for bad in ("evil.example", "127.0.0.2", "192.168.0.7:7860", "localhost.evil.example", "[::2]", "localhost."):
            assert not ours.has(bad), (host, bad)


def test_a_name_or_an_address_that_was_given_is_known_and_nothing_else() -> None:
    ours = list_hosts("Box.Example", ["search.example", "10.0.0.5"])
    for good in ("box.example", "BOX.example:7860", "search.example:443", "10.0.0.5"):
        assert ours.has(good)
    for bad in ("localhost", "127.0.0.1:7860", "10.0.0.6", "evil.example", "box.example.evil.example"):
        assert not ours.has(bad)
    address = list_hosts("192.168.0.7")
    assert [address.has(host) for host in ("192.168.0.7:7860", "192.168.0.8", "localhost")] == [True, False, False]
    assert list_hosts("fe80::1").has("[FE80:0::1]:7860")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0::0"])
def test_at_all_addresses_any_address_is_known_but_no_name_that_may_have_been_pointed_here(host: str) -> None:
    ours = list_hosts(host, ["search.example"])
    for good in ("192.168.0.7:7860", "[2001:db8::1]:7860", "0.0.0.0:7860", "localhost:7860", "Search.Example"):
        assert ours.has(good), good
    for bad in ("evil.example", "evil.example:7860", "192.168.0.7.evil.example", "0x7f.1", "1.2.3", "localhost.evil"):
        assert not ours.has(bad), bad


@pytest.mark.parametrize(
    "authority",
    [
        "", " ", ":7860", "[", "[]", "[::1", "::1", "::1:7860", "[127.0.0.1]", "[localhost]", "127.0.0.1:port",
        "127.0.0.1:", "127.0.0.1:123456", "127.0.0.1:80:80", "user@127.0.0.1", "127.0.0.1/", "127.0.0.1 evil.example",
        "127.0.0.1,evil.example", "evil.example#127.0.0.1", "127.0.0.1\n", "localhost\\evil", "\xff",
    ],
)  # fmt: skip
def test_what_is_no_host_is_nobodys(authority: str) -> None:
    assert not list_hosts("127.0.0.1").has(authority)
    assert not list_hosts("0.0.0.0", ["search.example"]).has(authority)


def test_names_beyond_ascii_are_compared_as_browsers_send_them() -> None:
    assert list_hosts("127.0.0.1", ["bücher.example"]).has("xn--bcher-kva.example:80")


def test_only_what_was_allowed_may_send_in_another_name() -> None:
    ours = list_hosts("127.0.0.1", ["search.example"])
    origins = ("http://127.0.0.1:80", "https://SEARCH.example:443", "http://127.0.0.1", "https://evil.example", "null")
    assert [ours.sends(origin, "127.0.0.1:80") for origin in origins] == [True, True, False, False, False]


@pytest.mark.parametrize(
    "given",
    ["", " ", "http://a.example", "a.example/", "a.example:80", "a b", "*", "*.example", "a,b", "[::1]", "-", "a\n"],
)
def test_what_is_no_name_cannot_be_allowed(given: str) -> None:
    with pytest.raises(ParamsError, match="wanted: the name alone, without http://, port or path"):
        list_hosts("127.0.0.1", [given])
