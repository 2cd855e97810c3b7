"""What annotations may point to: files under one folder, and public addresses.

An annotation file of someone else may name any file of this machine, and any address that this machine
can reach and its author cannot. A `MediaRoot` confines it; without one, annotations may name anything.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from livecc_jax.data.files.paths import is_remote, normalize
from livecc_jax.errors import ConfigError, MediaError

# Their hosts are those of the stores themselves, which the machine's configuration names.
BUCKET_SCHEMES = {"gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "hf"}
HTTP_SCHEMES = {"http", "https"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv6 addresses that stand for IPv4 ones
HEAD_BYTES = 4096

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class MediaRoot:
    """Confines the paths and addresses of annotations. Make one with `MediaRoot.of`.

    Attributes:
        folder: The folder that local files must lie in, symbolic links followed; or an address that
            all files must lie under.
        allowed_hosts: Hosts, addresses and networks that may be reached although they are not public.
        datasets: Datasets that the user has named, whose stored frames may be read wherever they are.
    """

    folder: str
    allowed_hosts: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    @staticmethod
    def of(folder: str, allowed_hosts: tuple[str, ...] = ()) -> MediaRoot | None:
        """Returns what a folder and hosts confine annotations to; None for no folder.

        Args:
            folder: A folder or an address; "" confines nothing.
            allowed_hosts: See the class.

        Raises:
            ConfigError: The folder does not exist, or hosts are allowed without one.
        """
        if not folder:
            if allowed_hosts:
                raise ConfigError("hosts are allowed with a media root only: give --media-root too")
            return None
        if is_remote(folder):
            folder = normalize(folder).rstrip("/")
        elif not os.path.isdir(folder):
            raise ConfigError(f"{folder}: is no folder that could be the media root")
        else:
            folder = os.path.realpath(folder)
        hosts = tuple(sorted(host.lower().strip("[]") for host in allowed_hosts))
        return MediaRoot(folder, hosts)

    def with_datasets(self, datasets: Iterable[str]) -> MediaRoot:
        """Returns this with datasets whose stored frames may be read too."""
        local = {os.path.realpath(path) for path in datasets if not is_remote(path)}
        return dataclasses.replace(self, datasets=tuple(sorted(local | {*self.datasets})))

    def check(self, path: str) -> None:
        """Checks a path or address that an annotation names.

        Raises:
            MediaError: It lies outside the media root, or leads to a host that is not public.
        """
        if is_remote(path):
            self._check_address(path)
            return
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError) as error:  # a NUL, or a loop of links
            raise MediaError(f"{path}: cannot be read: {error}") from error
        if is_remote(self.folder) or not _lies_in(real, self.folder):
            raise MediaError(f"{path}: lies outside the media root {self.folder}")

    def check_record(self, path: str, dataset: str) -> None:
        """Checks the path of frames that are stored in a dataset. Raises MediaError as `check` does."""
        if os.path.realpath(dataset) not in self.datasets:
            self.check(path.partition("/#")[0])

    def check_content(self, path: str, name: str) -> None:
        """Checks that a file holds its own pictures and does not name other files to be read.

        Args:
            path: Path of the file, or of its local copy.
            name: Its path or address as messages have it.

        Raises:
            MediaError: The file is a playlist or a description of streams.
        """
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError:
            return  # whoever reads it says so
        if _PLAYLIST.search(head):
            raise MediaError(
                f"{name}: is a playlist, which may name files outside the media root {self.folder}"
            )

    def check_host(self, host: str, resolved: IPAddress | None = None) -> None:
        """Checks that a host is public or allowed.

        Args:
            host: Name or address of the host.
            resolved: An address of it; by default all that its name resolves to.

        Raises:
            MediaError: It is neither, or its name cannot be resolved.
        """
        name = host.lower().rstrip(".").strip("[]")
        if name in self.allowed_hosts:
            return
        for address in [resolved] if resolved else _addresses(name):
            if not _is_public(address) and not self._is_allowed(address):
                raise MediaError(
                    f"{host}: leads to {address}, which is not a public address; with a media root, "
                    f"annotations reach it only with --allow-host {name}"
                )

    def _check_address(self, address: str) -> None:
        scheme = address.split("://", 1)[0].lower()
        if is_remote(self.folder):
            if not normalize(address).startswith(self.folder + "/"):
                raise MediaError(f"{address}: lies outside the media root {self.folder}")
        elif scheme not in BUCKET_SCHEMES | HTTP_SCHEMES:
            raise MediaError(
                f"{address}: lies outside the media root {self.folder}: it is neither in a bucket nor "
                "at an http:// or https:// address"
            )
        if scheme in HTTP_SCHEMES:
            try:
                host = urlsplit(address).hostname
            except ValueError:
                host = None
            if not host:
                raise MediaError(f"{address}: has no host that can be read")
            try:
                self.check_host(host)
            except MediaError as error:
                raise MediaError(f"{address}: {error}") from error

    def _is_allowed(self, address: IPAddress) -> bool:
        for allowed in self.allowed_hosts:
            try:
                if address in ipaddress.ip_network(allowed, strict=False):
                    return True
            except ValueError:
                continue  # a name
        return False


# What ffmpeg reads as a list of other files: HLS, its own lists, DASH, SDP, digital cinema.
_PLAYLIST = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat\b|v=0\s)|<MPD\b|<(?:\w+:)?CompositionPlaylist\b"
    rb"|(?:\A|\n)c=IN IP[46]",
    re.IGNORECASE,
)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


@functools.lru_cache(maxsize=4096)
def _addresses(host: str) -> tuple[IPAddress, ...]:
    """Returns the addresses of a host. Raises MediaError when its name cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"{host}: the name of the host cannot be resolved") from error
    return tuple({parse_ip(str(info[4][0])): None for info in found})


def parse_ip(text: str) -> IPAddress:
    """Returns an IP address, given as text; the zone of a link-local one is dropped."""
    return ipaddress.ip_address(text.partition("%")[0])


def _is_public(address: IPAddress) -> bool:
    """Returns whether an address is one of the public internet, also where IPv6 stands for IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast


async def confined_client(media_root: MediaRoot, **options: Any) -> Any:
    """Returns an aiohttp session that connects to public and allowed addresses alone.

    A name is checked when it is resolved for a connection, and so is every redirect: a host that was
    public when its name was checked first may not be so any more.

    Args:
        media_root: Which hosts may be reached.
        options: Arguments of aiohttp.ClientSession.
    """
    import aiohttp
    from aiohttp.resolver import ThreadedResolver

    class Resolver(ThreadedResolver):
        async def resolve(self, host: str, *args: Any, **kwargs: Any) -> Any:
            found = await super().resolve(host, *args, **kwargs)
            for entry in found:
                media_root.check_host(host, parse_ip(entry["host"]))
            return found

    class Connector(aiohttp.TCPConnector):
        async def connect(self, req: Any, *args: Any, **kwargs: Any) -> Any:
            host = req.url.host or ""
            try:
                address = parse_ip(host)  # which no resolver is asked for
            except ValueError:
                pass
            else:
                media_root.check_host(host, address)
            return await super().connect(req, *args, **kwargs)

    return aiohttp.ClientSession(connector=Connector(resolver=Resolver()), **options)
